"""Tables and texts that a person would rather look at than read."""
