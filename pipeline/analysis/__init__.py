"""What a study's own trials tell: which settings matter, and whether the bounds are right."""
