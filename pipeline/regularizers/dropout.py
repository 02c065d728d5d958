"""Dropout of single activations (https://jmlr.org/papers/v15/srivastava14a.html) and of whole
channels, which convolutions need since neighbouring pixels repeat each other
(https://arxiv.org/abs/1411.4280)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from pipeline.settings import Off, Settings

if TYPE_CHECKING:
    from pipeline.regularizers.masks import RandomMask


class DropoutSettings(Settings):
    dropout: Annotated[float, Field(ge=0, lt=1), Off(0.0)] = 0.0
    """Chance that an input of the classifier is zeroed."""
    spatial_dropout: Annotated[float, Field(ge=0, lt=1), Off(0.0)] = 0.0
    """Chance that a whole channel is zeroed inside the convolutional part."""


def dropout() -> RandomMask:
    """A layer for (N, ...) that drops elements; its rate is set by `masks.set_rates`."""
    from pipeline.regularizers.masks import RandomMask

    return RandomMask("dropout")


def spatial_dropout() -> RandomMask:
    """A layer for (N, C, H, W) that drops channels; its rate is set by `masks.set_rates`."""
    from pipeline.regularizers.masks import RandomMask

    return RandomMask("spatial_dropout", drawn_dims=2)
