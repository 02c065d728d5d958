"""What a search survives: one file for each kind of fault."""
