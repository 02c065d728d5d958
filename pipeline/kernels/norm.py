"""Batch normalization, 2x2 max pooling and ReLU on a CPU, each direction in two passes over memory.

torch has an operation for each, which reads and writes all pixels; on narrow nets they take half of
an update. That a norm and what follows it make one pass is an old idea (in-place ABN,
https://arxiv.org/abs/1712.02616); this one also keeps nothing for the backward pass but its input.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import wraps
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from pipeline.kernels.library import library

CHANNELS = 16
"""The kernels take a multiple of these."""
DTYPES = (torch.float32, torch.bfloat16)
LAYOUT = torch.channels_last


def can_fuse(norm: nn.Module) -> TypeGuard[nn.BatchNorm2d]:
    """Whether it is a norm by the batch, of a multiple of 16 channels, that learns a scale and
    keeps averages that fade, all in float32."""
    return (
        type(norm) is nn.BatchNorm2d
        and norm.num_features % CHANNELS == 0
        and norm.affine
        and norm.track_running_stats
        and norm.momentum is not None
        and norm.weight.dtype == torch.float32
    )


def halves(pool: nn.Module) -> bool:
    """Whether it is max pooling of 2x2 pixels into one."""
    return (
        type(pool) is nn.MaxPool2d
        and pool.kernel_size in (2, (2, 2))
        and pool.stride in (2, (2, 2))
        and pool.padding in (0, (0, 0))
        and pool.dilation in (1, (1, 1))
        and not (pool.return_indices or pool.ceil_mode)
    )


def can_follow(part: nn.Module, taken: Iterable[nn.Module]) -> bool:
    """Whether a norm, with what was taken of that which follows it, can take this along, too."""
    return type(part) is nn.ReLU or (halves(part) and not any(map(halves, taken)))


class FusedNorm(nn.Module):
    """A norm, and the pooling and ReLU that follow it in either order, as one operation.

    Same numbers but for rounding: sums are float64 where torch's are float32, and nothing between
    the norm and the end is rounded to bfloat16. What the kernels can't take is given to the parts
    one by one: other than float32 or bfloat16 images on a CPU, and, in eval mode, what gradients
    are asked of. Hooks on the parts are called in that case alone.

    Args:
        norm: one that `can_fuse`; its parameters, running averages and mode stay its own.
        following: what `can_follow` it, in its order; it may be nothing.

    Raises:
        ValueError: it is not one that `can_fuse`.
        KernelError: the kernels can't be had on this machine.
    """

    def __init__(self, norm: nn.BatchNorm2d, *following: nn.Module) -> None:
        super().__init__()
        if not can_fuse(norm):
            raise ValueError(f"the kernels can't take {norm}")
        library()
        self.norm, self.following = norm, nn.ModuleList(following)
        self.pool = next((part for part in following if halves(part)), None)
        self.relu = any(isinstance(part, nn.ReLU) for part in following)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same, or (N, C, H // 2, W // 2) where it is pooled."""
        norm = self.norm
        if not self._can_take(x):
            for part in (norm, *self.following):
                x = part(x)
            return x
        x = laid_out(x)
        pooled = self.pools(x)
        y: Tensor
        if norm.training:
            self.count()
            y = _Norm.apply(x, norm.weight, norm.bias, norm, pooled, self.relu)
        else:
            y = _by_averages(x, norm, pooled, self.relu)
        return self.completed(y, pooled)

    def pools(self, x: Tensor) -> bool:
        """Whether images like these, before the pooling, are pooled by the kernels."""
        return self.pool is not None and x.shape[2] % 2 == x.shape[3] % 2 == 0

    def is_at_home(self, x: Tensor) -> bool:
        """Whether images and the norm are on the CPU, and the norm is in float32, still: whoever
        holds the net may have moved or cast it since."""
        weight = self.norm.weight
        return x.device.type == weight.device.type == "cpu" and weight.dtype == torch.float32

    def count(self) -> None:
        """One batch more, for the norm's books."""
        if self.norm.num_batches_tracked is not None:
            self.norm.num_batches_tracked.add_(1)

    def completed(self, y: Tensor, pooled: bool) -> Tensor:
        """What the kernels gave, pooled if they didn't: ReLU and the maximum of pixels commute."""
        return y if pooled or self.pool is None else self.pool(y)

    def _can_take(self, x: Tensor) -> bool:
        norm = self.norm
        if x.dtype not in DTYPES or not self.is_at_home(x):
            return False
        if x.dim() != 4 or x.shape[1] != norm.num_features or not x.numel():
            return False  # torch has words for it
        if norm.training:
            return x.numel() > x.shape[1]
        return not is_asked_for_gradients(x, norm.weight, norm.bias)


Gradients = tuple[Tensor | None, ...]
Backward = Callable[[Any, Tensor], Gradients]


def differentiable_once(backward: Backward) -> Backward:
    """For one that autograd can't look into. torch's `once_differentiable` would let what it gives
    pass for constants wherever the gradient that it is given is one.

    Raises:
        RuntimeError: when it is called, if its own gradients may be asked for.
    """

    @wraps(backward)
    def checked(ctx: Any, gradient: Tensor) -> Gradients:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "a fused layer is differentiated once: with create_graph=True, train by engine: "
                "eager"
            )
        return backward(ctx, gradient)

    return checked


class _Norm(torch.autograd.Function):
    """In train mode, differentiable."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        norm: nn.BatchNorm2d,
        pooled: bool,
        relu: bool,
    ) -> Tensor:
        y, saved = room(x.shape, x.dtype, pooled), torch.empty(4, x.shape[1])
        ctx.how = (*x.shape, x.dtype == torch.bfloat16, pooled, relu)
        library().norm_forward(
            *addresses(x, y, weight, bias, *averages(norm), saved),
            *ctx.how,
            torch.get_num_threads(),
            norm.momentum,
            norm.eps,
        )
        ctx.save_for_backward(x, saved)
        return y

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, gradient: Tensor) -> Gradients:
        x, saved = ctx.saved_tensors
        gradient = laid_out(gradient)
        dx = torch.empty_like(x)
        dweight, dbias = torch.empty(2, x.shape[1]).unbind()
        library().norm_backward(
            *addresses(x, gradient, dx, dweight, dbias, saved),
            *ctx.how,
            torch.get_num_threads(),
        )
        return dx, dweight, dbias, None, None, None


def _by_averages(x: Tensor, norm: nn.BatchNorm2d, pooled: bool, relu: bool) -> Tensor:
    """In eval mode, without gradients."""
    y = room(x.shape, x.dtype, pooled)
    scale, shift = scale_and_shift(norm)
    how = (*x.shape, x.dtype == torch.bfloat16, pooled, relu)
    library().norm_apply(*addresses(x, y, scale, shift), *how, torch.get_num_threads())
    return y


def scale_and_shift(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """What it comes to in eval mode, each (C,) float32."""
    mean, variance = averages(norm)
    scale = norm.weight * torch.rsqrt(variance + norm.eps)
    return scale, norm.bias - mean * scale


def is_asked_for_gradients(*tensors: Tensor) -> bool:
    """Whether those of any of them may be asked for."""
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def averages(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """The running mean and variance, each (C,) float32."""
    mean, variance = norm.running_mean, norm.running_var
    if mean is None or variance is None:
        raise TypeError("a norm without running averages can't be fused")
    return mean, variance


def room(shape: Sequence[int], dtype: torch.dtype, pooled: bool = False) -> Tensor:
    """For images (N, C, H, W), or what is left of them when they were pooled."""
    count, channels, height, width = shape
    if pooled:
        height, width = height // 2, width // 2
    shape = (count, channels, height, width)
    return torch.empty(shape, dtype=dtype, device="cpu", memory_format=LAYOUT)


def laid_out(images: Tensor) -> Tensor:
    """Those (N, C, H, W), with their values in memory as the kernels read them."""
    return images.resolve_neg().contiguous(memory_format=LAYOUT)


def addresses(*tensors: Tensor | None) -> Iterator[int | None]:
    """Of tensors that somebody else holds: these are let go before the call that they are for."""
    return (None if tensor is None else tensor.data_ptr() for tensor in tensors)
