"""Building blocks of the nets. It needs torch, so settings files import it where they build."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, relu

from pipeline.models.base import Norm
from pipeline.regularizers.dropout import spatial_dropout

ALIGNMENT = 8
"""Channels of 16 bits that make up the 16 bytes which tensor cores load at once."""


def norm_layer(norm: Norm, num_channels: int) -> nn.Module:
    """A norm for (N, C, H, W), with C >= 4."""
    match norm:
        case "batch":
            return nn.BatchNorm2d(num_channels)
        case "group":  # https://arxiv.org/abs/1803.08494
            return nn.GroupNorm(_num_groups(num_channels), num_channels)
        case "layer":
            return nn.GroupNorm(1, num_channels)
        case "none":
            return nn.Identity()


def _num_groups(num_channels: int) -> int:
    """At most 32, and no group of a single channel: that would be instance norm."""
    return max(n for n in range(1, min(32, num_channels // 2) + 1) if num_channels % n == 0)


class Convolution(nn.Conv2d):
    """Its inputs of fewer than 8 channels are padded with zeros, for a GPU's tensor cores.

    These take 16-bit operands by eights; the images' three channels would keep them out. On an H200
    the first convolution of the default net took a quarter less time, without the padding itself.
    """

    def forward(self, x: Tensor) -> Tensor:
        on_tensor_cores = x.is_cuda and torch.is_autocast_enabled("cuda")
        return self.padded(x) if on_tensor_cores else super().forward(x)

    def padded(self, x: Tensor) -> Tensor:
        """The same sums, with terms of 0 among them."""
        channels = (0, 0, 0, 0, 0, ALIGNMENT - self.in_channels)
        images = pad(x, channels).contiguous(memory_format=torch.channels_last)
        sums: Tensor = self._conv_forward(images, pad(self.weight, channels), self.bias)
        return sums


def convolution(inputs: int, outputs: int, norm: Norm, size: int = 3, stride: int = 1) -> nn.Conv2d:
    """A convolution that keeps H and W at stride 1; its bias is left to the norm, if any."""
    kind = Convolution if inputs < ALIGNMENT else nn.Conv2d
    return kind(inputs, outputs, size, stride, size // 2, bias=norm == "none")


def conv_norm(inputs: int, outputs: int, norm: Norm, stride: int = 1) -> nn.Sequential:
    """3x3: (N, inputs, H, W) to (N, outputs, ceil(H / stride), ceil(W / stride))."""
    return nn.Sequential(
        convolution(inputs, outputs, norm, stride=stride), norm_layer(norm, outputs)
    )


def conv_norm_relu(inputs: int, outputs: int, norm: Norm, stride: int = 1) -> nn.Sequential:
    """The same, and what is above 0 of it."""
    return conv_norm(inputs, outputs, norm, stride).append(nn.ReLU(inplace=True))


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut (https://arxiv.org/abs/1512.03385).

    Spatial dropout sits between the convolutions (https://arxiv.org/abs/1605.07146).

    Args:
        inputs, outputs, stride: as in `conv_norm_relu`, and so are the shapes.
        skip: the mask over the residual branch.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, norm: Norm, skip: nn.Module) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            conv_norm_relu(inputs, outputs, norm, stride),
            spatial_dropout(),
            *conv_norm(outputs, outputs, norm),
            skip,
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                Subsample(stride),
                convolution(inputs, outputs, norm, size=1),
                norm_layer(norm, outputs),
            )

    def forward(self, x: Tensor) -> Tensor:
        return relu(self.shortcut(x) + self.residual(x))


class Subsample(nn.Module):
    """Every `stride`-th row and column: (N, C, H, W) to (N, C, ceil(H / stride), ...).

    A 1x1 convolution after it is one with a stride, which oneDNN computes wrongly on the CPU: with
    fewer channels than its block, the backward pass writes beyond its memory and the process dies
    (https://github.com/uxlfoundation/oneDNN/issues/6035; seen with 4 to 7 channels, torch 2.15).
    """

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, :: self.stride, :: self.stride]


class GreyToColour(nn.Module):
    """Repeats a grey channel: (N, 1, H, W) to (N, 3, H, W), without a copy."""

    def forward(self, x: Tensor) -> Tensor:
        return x.expand(-1, 3, -1, -1)


def initialise(model: nn.Module) -> nn.Module:
    """He's initialisation (https://arxiv.org/abs/1502.01852), so that `norm: none` trains too."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return model
