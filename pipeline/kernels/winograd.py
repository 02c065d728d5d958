"""Convolutions by 3x3 in float32 on a CPU, with 36 products where there are 144.

Winograd's F(4x4, 3x3) (https://arxiv.org/abs/1509.09308): a tile of 6x6 inputs, a filter and a tile
of 4x4 outputs are transformed by sums, and what is left are 36 products of matrices, tiles by
channels. The gradients are those of the same sums: of the inputs by the filter turned round, of the
weights by 36 products, too.
"""

from __future__ import annotations

from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from pipeline.kernels.library import library, missing
from pipeline.kernels.norm import (
    CHANNELS,
    Gradients,
    addresses,
    differentiable_once,
    laid_out,
    room,
)

SHORTEST_SIDE = 4
"""In pixels: of smaller images the zeros around them, which others skip, are too many."""


def can_transform(conv: nn.Module) -> TypeGuard[nn.Conv2d]:
    """Whether it is a convolution by 3x3 that keeps height and width, from a multiple of 16
    channels to another, in float32; and this machine has the kernels."""
    return (
        type(conv) is nn.Conv2d
        and conv.kernel_size == (3, 3)
        and conv.padding == conv.stride == conv.dilation == (1, 1)
        and conv.padding_mode == "zeros"
        and conv.groups == 1
        and conv.in_channels % CHANNELS == conv.out_channels % CHANNELS == 0
        and "weight" in conv._parameters  # it may be made of others
        and conv.weight.dtype == torch.float32
        and not missing()
    )


class WinogradConv(nn.Conv2d):
    """A convolution that is computed so where it can be, with the same numbers but for float32's
    rounding: of float32 images on a CPU, of 4x4 pixels or more, without autocast."""

    @classmethod
    def of(cls, conv: nn.Conv2d) -> WinogradConv:
        """Another module with the parameters, and the hooks, of one that `can_transform`.

        Raises:
            ValueError: it can't be transformed.
        """
        if not can_transform(conv):
            raise ValueError(f"the kernels can't take {conv}")
        twin = cls.__new__(cls)
        twin.__dict__.update(conv.__dict__)
        return twin

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, K, H, W)."""
        if not self._can_take(x):
            return super().forward(x)
        y: Tensor = _Winograd.apply(x, self.weight, self.bias)
        return y

    def _can_take(self, x: Tensor) -> bool:
        inputs, outputs = self.in_channels, self.out_channels
        tensors = (x, self.weight, *([] if self.bias is None else [self.bias]))
        return (
            all(t.dtype == torch.float32 and t.device.type == "cpu" for t in tensors)
            and not torch.is_autocast_enabled("cpu")
            and x.dim() == 4
            and x.shape[1] == inputs
            and x.shape[0] > 0
            and min(x.shape[2:]) >= SHORTEST_SIDE
            and self.weight.shape == (outputs, inputs, 3, 3)  # they may have been cut
            and (self.bias is None or self.bias.shape == (outputs,))
        )


class _Winograd(torch.autograd.Function):
    """Differentiable once."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        x = laid_out(x)
        ctx.save_for_backward(x, weight)
        return _convolved(x, weight.permute(2, 3, 1, 0), bias)

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, gradient: Tensor) -> Gradients:
        x, weight = ctx.saved_tensors
        gradient = laid_out(gradient)
        dx = dweight = dbias = None
        if ctx.needs_input_grad[0]:
            dx = _convolved(gradient, weight.flip(2, 3).permute(2, 3, 0, 1), None)
        if ctx.needs_input_grad[1]:
            dweight = _weights_gradient(x, gradient)
        if ctx.needs_input_grad[2]:
            dbias = gradient.sum((0, 2, 3))
        return dx, dweight, dbias


def _convolved(x: Tensor, taps: Tensor, bias: Tensor | None) -> Tensor:
    """By taps (3, 3, C, K)."""
    taps = taps.contiguous()
    bias = None if bias is None else bias.contiguous()
    count, inputs, height, width = x.shape
    outputs, threads = taps.shape[3], torch.get_num_threads()
    filters = taps.new_empty(4 * taps.numel())
    library().winograd_filters(*addresses(taps, filters), inputs, outputs, threads)
    y = room((count, outputs, height, width), x.dtype)
    shape = (count, height, width, inputs, outputs)
    library().winograd_convolve(*addresses(x, filters, bias, y), *shape, threads)
    return y


def _weights_gradient(x: Tensor, gradient: Tensor) -> Tensor:
    """(K, C, 3, 3)."""
    count, inputs, height, width = x.shape
    outputs = gradient.shape[1]
    taps = x.new_empty(3, 3, inputs, outputs)
    shape = (count, height, width, inputs, outputs)
    library().winograd_gradient(*addresses(x, gradient, taps), *shape, torch.get_num_threads())
    return taps.permute(3, 2, 0, 1)
