"""The report's sections: each a question, and a function from the evidence to its answer."""
