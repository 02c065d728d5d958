"""Convolutions by 3x3 in float32 on a CPU, with 16 products where there are 36.

Winograd's F(2x2, 3x3) (https://arxiv.org/abs/1509.09308, which has the matrices, too): a tile of
4x4 inputs, a filter and a tile of 2x2 outputs are transformed by sums, and what is left are 16
products of matrices, tiles by channels. These are torch's; so many images at a time that what is
transformed stays in the cache. The gradients are those of the same sums: of the inputs by the
filter turned round, of the weights by 16 products, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from pipeline.kernels.library import library, missing
from pipeline.kernels.norm import LANES, LAYOUT, addresses, room

FEWEST_CHANNELS, FEWEST_PAIRS = 32, 32 * 64
"""In, and out; and of one with the other. With fewer the transforms cost what the products save."""
FEWEST_FOR_WEIGHTS = 64
"""The same for the gradient of the weights, which has two transforms."""
FEWEST_PIXELS = 4
"""To a side: of smaller images the zeros around them, which others skip, are too many."""
TILES = 256
"""That are transformed at a time, about: enough for the products, and few enough for the cache."""
TERMS = 16


@cache  # not made at the import: workers are forked from a process that has not worked yet
def _of_taps() -> Tensor:
    """(16, 9): what becomes of a filter's taps."""
    of_side = torch.tensor([[1.0, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1.0]])
    return torch.kron(of_side, of_side)


def can_transform(conv: nn.Module) -> TypeGuard[nn.Conv2d]:
    """Whether it is a convolution by 3x3 that keeps height and width, from many channels to many,
    each a multiple of 16, in float32; and this machine has the kernels."""
    return (
        isinstance(conv, nn.Conv2d)
        and type(conv).forward is nn.Conv2d.forward
        and type(conv)._conv_forward is nn.Conv2d._conv_forward
        and conv.kernel_size == (3, 3)
        and conv.padding == conv.stride == conv.dilation == (1, 1)
        and conv.padding_mode == "zeros"
        and conv.groups == 1
        and conv.in_channels % LANES == conv.out_channels % LANES == 0
        and min(conv.in_channels, conv.out_channels) >= FEWEST_CHANNELS
        and conv.in_channels * conv.out_channels >= FEWEST_PAIRS
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
        tensors = (x, self.weight, *([] if self.bias is None else [self.bias]))
        return (
            x.dim() == 4
            and all(t.dtype == torch.float32 and t.device.type == "cpu" for t in tensors)
            and not torch.is_autocast_enabled("cpu")
            and x.shape[1] == self.in_channels
            and x.shape[0] > 0
            and min(x.shape[2:]) >= FEWEST_PIXELS
        )


class _Winograd(torch.autograd.Function):
    """Differentiable once."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        x = x.contiguous(memory_format=LAYOUT)
        ctx.save_for_backward(x, weight)
        transformed = torch.einsum("tp,kpc->tck", _of_taps(), _taps(weight))
        return _convolved(x, transformed.contiguous(), None if bias is None else bias.contiguous())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=LAYOUT)
        dx = dweight = dbias = None
        if ctx.needs_input_grad[0]:
            turned = torch.einsum("tp,kpc->tkc", _of_taps().flip(1), _taps(weight))
            dx = _convolved(gradient, turned.contiguous(), None)
        if ctx.needs_input_grad[1]:
            dweight = _weights_gradient(x, weight, gradient)
        if ctx.needs_input_grad[2]:
            dbias = gradient.sum((0, 2, 3))
        return dx, dweight, dbias


def _taps(weight: Tensor) -> Tensor:
    """(K, C, 3, 3) to (K, 9, C)."""
    return weight.permute(0, 2, 3, 1).flatten(1, 2)


def _convolved(x: Tensor, transformed: Tensor, bias: Tensor | None) -> Tensor:
    """By a filter (16, C, K)."""
    count, _, height, width = x.shape
    channels = transformed.shape[2]
    y = room((count, channels, height, width), x.dtype)
    for images, terms, sums in _blocks(x, channels):
        own, out = x[images], y[images]
        library().winograd_inputs(*addresses(own, terms), *_how(own, terms))
        torch.bmm(terms, transformed, out=sums)
        library().winograd_outputs(*addresses(sums, bias, out), *_how(out, sums))
    return y


def _weights_gradient(x: Tensor, weight: Tensor, gradient: Tensor) -> Tensor:
    """(K, C, 3, 3)."""
    outputs, inputs = weight.shape[:2]
    if min(outputs, inputs) < FEWEST_FOR_WEIGHTS:
        one, wanted = [1, 1], [False, True, False]
        found: list[Tensor] = torch.ops.aten.convolution_backward(
            gradient, x, weight, None, one, one, one, False, [0, 0], 1, wanted
        )
        return found[1]
    total = torch.zeros(TERMS, inputs, outputs)
    for images, terms, sums in _blocks(x, outputs):
        own, out = x[images], gradient[images]
        library().winograd_inputs(*addresses(own, terms), *_how(own, terms))
        library().winograd_gradients(*addresses(out, sums), *_how(out, sums))
        total.baddbmm_(terms.transpose(1, 2), sums)
    taps = torch.einsum("tp,tck->kpc", _of_taps(), total)
    return taps.view(outputs, 3, 3, inputs).permute(0, 3, 1, 2)


def _blocks(x: Tensor, channels: int) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Some images of x at a time; room for their tiles' terms (16, T, C), and for as many sums of
    so many channels, the same each time."""
    count, inputs, height, width = x.shape
    tiles = ((height + 1) // 2) * ((width + 1) // 2)
    most = min(count, max(1, TILES // tiles))
    # One row more: 16 addresses at a distance of a power of 2 would share a few lines of the cache.
    terms, sums = (torch.empty(TERMS, most * tiles + 1, size) for size in (inputs, channels))
    for first in range(0, count, most):
        size = min(most, count - first)
        yield slice(first, first + size), terms[:, : size * tiles], sums[:, : size * tiles]


def _how(images: Tensor, transformed: Tensor) -> tuple[int, ...]:
    """Images, and what is transformed, as they lie in memory; threads."""
    count, channels, height, width = images.shape
    rows = transformed.stride(0) // channels
    return count, height, width, channels, rows, torch.get_num_threads()
