"""Where things lie unless told otherwise, for those who start before anything else is loaded."""

DEFAULT_STORAGE = "sqlite:///mlruns/optuna.db"
"""The study's store, as an SQLAlchemy URL."""
