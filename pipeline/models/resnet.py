"""A small ResNet for small images (https://arxiv.org/abs/1512.03385, section 4.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from pipeline.models.base import ImageShape, ModelSettings, Norm
from pipeline.regularizers.dropout import dropout
from pipeline.regularizers.stochastic_depth import stochastic_depth

if TYPE_CHECKING:
    from torch import nn

NUM_STAGES = 3


class ResnetSettings(ModelSettings):
    regularizers: ClassVar[frozenset[str]] = frozenset(
        {"dropout", "spatial_dropout", "stochastic_depth"}
    )

    kind: Literal["resnet"] = "resnet"
    """Three stages of residual blocks at full, half and quarter size."""
    width: Annotated[int, Field(ge=4, le=4_096)] = 32
    """Channels of the first stage; the second has twice, the third four times as many."""
    depth: Annotated[int, Field(ge=1)] = 2
    """Residual blocks a stage."""
    norm: Norm = "batch"
    """What normalizes after each convolution."""

    def build(self, image_shape: ImageShape, num_classes: int) -> nn.Module:
        """Dropout comes before the classifier, spatial dropout inside the residual branches."""
        from torch import nn

        from pipeline.models.layers import conv_norm_relu, initialise

        return initialise(
            nn.Sequential(
                conv_norm_relu(image_shape[0], self.width, self.norm),
                *self._residual_blocks(),
                nn.AdaptiveAvgPool2d(1),
                nn.Flatten(),
                dropout(),
                nn.Linear(self.width * 2 ** (NUM_STAGES - 1), num_classes),
            )
        )

    def _residual_blocks(self) -> list[nn.Module]:
        """(N, width, H, W) to (N, 4 * width, ceil(H / 4), ceil(W / 4))."""
        from pipeline.models.layers import ResidualBlock

        num_blocks = NUM_STAGES * self.depth
        blocks: list[nn.Module] = []
        inputs = self.width
        for index in range(num_blocks):
            stage, block_of_stage = divmod(index, self.depth)
            outputs = self.width * 2**stage
            stride = 2 if stage > 0 and block_of_stage == 0 else 1
            skip = stochastic_depth(index + 1, num_blocks)
            blocks.append(ResidualBlock(inputs, outputs, stride, self.norm, skip))
            inputs = outputs
        return blocks
