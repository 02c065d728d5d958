"""Local worker processes that share one study."""
