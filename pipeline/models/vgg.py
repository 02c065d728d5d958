"""A small VGG (https://arxiv.org/abs/1409.1556): three blocks of two convolutions, and a head."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from pipeline.models.base import ImageShape, ModelSettings, Norm
from pipeline.regularizers.dropout import dropout, spatial_dropout

if TYPE_CHECKING:
    from torch import nn

MAX_HEAD_SIDE = 4


class VggSettings(ModelSettings):
    """By default 3.25 million parameters and 310 MFLOP on 32x32 images of 10 classes."""

    regularizers: ClassVar[frozenset[str]] = frozenset({"dropout", "spatial_dropout"})

    kind: Literal["vgg"] = "vgg"
    """Three blocks of two 3x3 convolutions, and a head with one hidden layer."""
    width: Annotated[int, Field(ge=4, le=4_096)] = 64
    """Channels of the first block; the second has twice, the third four times as many."""
    norm: Norm = "batch"
    """What normalizes after each convolution."""
    head_width: Annotated[int, Field(ge=1, le=65_536)] = 512
    """Hidden units of the head."""

    def build(self, image_shape: ImageShape, num_classes: int) -> nn.Module:
        """Dropout follows the hidden layer of the head, spatial dropout each block."""
        from torch import nn

        from pipeline.models.layers import initialise

        num_channels, height, width = image_shape
        # Three halvings; what a large image leaves is averaged down to 4x4, for a head of
        # ordinary size.
        side = (min(height // 8, MAX_HEAD_SIDE), min(width // 8, MAX_HEAD_SIDE))
        pool = nn.Identity() if side == (height // 8, width // 8) else nn.AdaptiveAvgPool2d(side)
        return initialise(
            nn.Sequential(
                self._block(num_channels, self.width),
                self._block(self.width, 2 * self.width),
                self._block(2 * self.width, 4 * self.width),
                pool,
                nn.Flatten(),
                nn.Linear(4 * self.width * side[0] * side[1], self.head_width),
                nn.ReLU(inplace=True),
                dropout(),
                nn.Linear(self.head_width, num_classes),
            )
        )

    def _block(self, inputs: int, outputs: int) -> nn.Module:
        """(N, inputs, H, W) to (N, outputs, H // 2, W // 2)."""
        from torch import nn

        from pipeline.models.layers import conv_norm, conv_norm_relu

        # ReLU after the pooling gives the same numbers as before it, on a quarter of the pixels.
        return nn.Sequential(
            conv_norm_relu(inputs, outputs, self.norm),
            conv_norm(outputs, outputs, self.norm),
            nn.MaxPool2d(2),
            nn.ReLU(inplace=True),
            spatial_dropout(),
        )
