"""The report's figures, by plotly: each from plain records, so that each can be tested alone."""
