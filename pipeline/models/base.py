"""What every architecture declares, without torch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, Literal

from pipeline.settings import Settings

if TYPE_CHECKING:
    from torch import nn

ImageShape = tuple[int, int, int]
"""Channels, height, width."""

Norm = Literal["batch", "group", "layer", "none"]


class ModelSettings(Settings, ABC):
    """One architecture: its sizes, and how it is built.

    Attributes:
        regularizers: which of `dropout`, `spatial_dropout` and `stochastic_depth` it has a place
            for; they are the masks that `build` puts into the net.
    """

    regularizers: ClassVar[frozenset[str]]

    @abstractmethod
    def build(self, image_shape: ImageShape, num_classes: int) -> nn.Module:
        """The net, (N, *image_shape) float to (N, num_classes) logits, with all rates at 0."""
