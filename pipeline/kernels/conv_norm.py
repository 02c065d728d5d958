"""A convolution and the norm, the pooling and the ReLU after it as one operation, on a CPU.

The convolution is ours, for processors with AMX: what a norm needs of it is taken while it is in
the cache; and the gradient of its weights, for which oneDNN takes two to four times as long as for
the convolution, takes about as long.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from pipeline.kernels.library import can_convolve, library
from pipeline.kernels.norm import (
    CHANNELS,
    LAYOUT,
    FusedNorm,
    Gradients,
    addresses,
    averages,
    differentiable_once,
    is_asked_for_gradients,
    laid_out,
    room,
    scale_and_shift,
)

SIZES = (((3, 3), (1, 1)), ((1, 1), (0, 0)))
"""Of filters, with their padding."""
COLOURS = 3
"""So many channels, at most, are unfolded for a filter of 3x3."""
FEWEST_PIXELS = 4
"""Of an image: a tile has 32, and is not filled with those of several."""
MOST_VALUES = 2**18
"""Of an image, in or out: larger ones don't fit into the cache with what is made of them."""


def can_fuse_convolution(conv: nn.Module) -> TypeGuard[nn.Conv2d]:
    """Whether it is a convolution by 3x3 or 1x1 that keeps height and width, without a bias, from
    a few colours or a multiple of 16 channels to one, in float32, without hooks; and this machine
    has the kernels."""
    if type(conv) is not nn.Conv2d:
        return False
    most = COLOURS if conv.kernel_size == (3, 3) else 0
    return (
        (conv.kernel_size, conv.padding) in SIZES
        and conv.stride == conv.dilation == (1, 1)
        and conv.padding_mode == "zeros"
        and conv.groups == 1
        and conv.bias is None
        and conv.out_channels % CHANNELS == 0
        and (conv.in_channels % CHANNELS == 0 or conv.in_channels <= most)
        and conv.weight.dtype == torch.float32
        and not (conv._forward_pre_hooks or conv._forward_hooks)
        and can_convolve()
    )


class FusedConvNorm(nn.Module):
    """A convolution that `can_fuse_convolution`, and the norm with what follows it.

    Same numbers but for rounding: the convolution is rounded to bfloat16, as autocast has it, and
    the gradient of its weights is not. What the kernels can't take is given to the two one by one:
    all but images on a CPU under autocast to bfloat16, of an even width and neither tiny nor too
    large; colours of which gradients are asked; and, in eval mode, all of which they are.

    Args:
        conv: its weights stay its own.
        norm: of as many channels as come out.
        otherwise: makes what does the same as the two in eval mode, in their place; at its first
            use, of the weights as they are then.

    Raises:
        ValueError: it is no convolution that the kernels can take, or not of the norm's channels.
    """

    def __init__(
        self,
        conv: nn.Conv2d,
        norm: FusedNorm,
        otherwise: Callable[[], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        if not can_fuse_convolution(conv) or norm.norm.num_features != conv.out_channels:
            raise ValueError(f"the kernels can't take {conv} and {norm.norm}")
        self.conv, self.norm = conv, norm
        self._make_other = otherwise
        self._other: nn.Module | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, K, H, W), or (N, K, H // 2, W // 2) where it is pooled."""
        y: Tensor
        if not self._can_take(x):
            y = self._otherwise(x)
            return y
        norm, pooled = self.norm.norm, self.norm.pools(x)
        x = laid_out(x.to(torch.bfloat16))
        weight = self.conv.weight.contiguous(memory_format=LAYOUT)
        if norm.training:
            self.norm.count()
            y = _ConvNorm.apply(x, weight, norm.weight, norm.bias, norm, pooled, self.norm.relu)
        else:
            y = _by_averages(x, weight, norm, pooled, self.norm.relu)
        return self.norm.completed(y, pooled)

    def _otherwise(self, x: Tensor) -> Tensor:
        y: Tensor
        if self._make_other is None or self.norm.norm.training:
            y = self.norm(self.conv(x))
            return y
        if self._other is None:
            self._other = self._make_other()
        y = self._other(x)
        return y

    def _can_take(self, x: Tensor) -> bool:
        conv, norm = self.conv, self.norm
        if x.dim() != 4 or not norm.is_at_home(x):
            return False
        if not norm.norm.training and is_asked_for_gradients(
            x, conv.weight, norm.norm.weight, norm.norm.bias
        ):
            return False
        if not (torch.is_autocast_enabled("cpu") and x.dtype in (torch.float32, torch.bfloat16)):
            return False
        _, channels, height, width = x.shape
        return (
            torch.get_autocast_dtype("cpu") == torch.bfloat16
            and (conv.weight.device.type, conv.weight.dtype) == ("cpu", torch.float32)
            and channels == conv.in_channels
            and width % 2 == 0
            and x.numel() > 0
            and height * width >= FEWEST_PIXELS
            and height * width * max(channels, conv.out_channels) <= MOST_VALUES
            and not (x.requires_grad and channels % CHANNELS)
            and can_convolve()  # it may come from a process that can
        )


class _ConvNorm(torch.autograd.Function):
    """In train mode, differentiable."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        scale: Tensor,
        shift: Tensor,
        norm: nn.BatchNorm2d,
        pooled: bool,
        relu: bool,
    ) -> Tensor:
        shape = _shape(x, weight)
        z, y = room(shape, x.dtype), room(shape, x.dtype, pooled)
        saved = torch.empty(4, len(weight))
        ctx.how = _how(x, weight, pooled, relu)
        library().conv_norm_forward(
            *addresses(x, weight, z, y, scale, shift, *averages(norm), saved),
            *ctx.how,
            torch.get_num_threads(),
            norm.momentum,
            norm.eps,
        )
        ctx.save_for_backward(x, weight, z, saved)
        return y

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, gradient: Tensor) -> Gradients:
        x, weight, z, saved = ctx.saved_tensors
        gradient = laid_out(gradient)
        dx = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        dweight = torch.empty_like(weight)
        dscale, dshift = torch.empty(2, len(weight)).unbind()
        library().conv_norm_backward(
            *addresses(x, weight, z, gradient, dx, dweight, dscale, dshift, saved),
            *ctx.how,
            torch.get_num_threads(),
        )
        return dx, dweight, dscale, dshift, None, None, None


def _by_averages(
    x: Tensor, weight: Tensor, norm: nn.BatchNorm2d, pooled: bool, relu: bool
) -> Tensor:
    """In eval mode, without gradients."""
    y = room(_shape(x, weight), x.dtype, pooled)
    scale, shift = scale_and_shift(norm)
    library().conv_norm_apply(
        *addresses(x, weight, y, scale, shift),
        *_how(x, weight, pooled, relu),
        torch.get_num_threads(),
    )
    return y


def _shape(x: Tensor, weight: Tensor) -> tuple[int, int, int, int]:
    """Of the convolution."""
    count, _, height, width = x.shape
    return count, len(weight), height, width


def _how(x: Tensor, weight: Tensor, pooled: bool, relu: bool) -> tuple[int, ...]:
    """As the kernels take it."""
    count, inputs, height, width = x.shape
    return count, inputs, len(weight), height, width, weight.shape[-1], pooled, relu
