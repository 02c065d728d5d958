"""What the trials of a study tell: read from its store alone."""
