"""A space file's text -> `RunConfig`: read strictly, checked whole, changed by dotted paths."""

from pipeline.config.run_config import RunConfig

__all__ = ["RunConfig"]
