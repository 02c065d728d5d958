"""regsearch: search the regularization of an image classifier and keep an honest winner."""

__version__ = "0.1.0"
