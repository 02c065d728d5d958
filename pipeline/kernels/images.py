"""Images as a net takes them, on a CPU: from bytes to normalized values in one pass over each."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from pipeline.kernels.library import library, missing
from pipeline.kernels.norm import DTYPES, addresses, room

MOST_CHANNELS = 4
"""As in `images.cpp`."""


@dataclass(frozen=True)
class Changes:
    """What is done to each of N images (C, H, W); None is nothing.

    Attributes:
        maps: (N, 3, 3) float32; each takes a position in what comes out to the position in the
            image that it shows, in pixels from the centre (x right, y down), by bilinear
            interpolation. Outside an image is black.
        colours: (N, C, C + 1) float32; each takes a pixel's channels, and its image's mean grey,
            to channels.
        grey: (C,) float32, with colours: what each channel is of grey.
        erased: (N, 1, H, W) bool; these pixels become black.
    """

    maps: Tensor | None = None
    colours: Tensor | None = None
    grey: Tensor | None = None
    erased: Tensor | None = None


UNCHANGED = Changes()


def can_prepare(num_channels: int, dtype: torch.dtype, device: torch.device) -> bool:
    """Whether there is a kernel for such images, to become values of this dtype."""
    fits = num_channels <= MOST_CHANNELS and dtype in DTYPES and device.type == "cpu"
    return fits and not missing()


def prepared(
    images: Tensor,
    mean: Tensor,
    std: Tensor,
    dtype: torch.dtype,
    indices: Tensor | None = None,
    changes: Changes = UNCHANGED,
) -> Tensor:
    """Moved, recoloured and blanked, in this order, and normalized; without changes the same as
    `(images / 255 - mean) / std`. What is moved or recoloured is clamped to [0, 1] after it.

    Args:
        images: (M, C, H, W) uint8, C at most 4.
        mean, std: C values float32 each, of images in [0, 1].
        dtype: float32 or bfloat16; the arithmetic is float32.
        indices: (N,) int64 in [0, M), which is not checked: the images that are taken; all in
            order, if left out.
        changes: of the N images.

    Returns:
        (N, C, H, W), channels_last.

    Raises:
        ValueError: a tensor is of another type or size than the kernel takes it for.
        KernelError: the kernels can't be had on this machine.
    """
    total, channels, *size = images.shape
    count = total if indices is None else len(indices)
    if channels > MOST_CHANNELS or dtype not in DTYPES:
        raise ValueError(f"there is no kernel for {channels} channels as {dtype}")
    held = [
        _as_taken("images", images, torch.uint8, images.numel()),
        _as_taken("indices", indices, torch.int64, count),
        _as_taken("maps", changes.maps, torch.float32, count * 9),
        _as_taken("colours", changes.colours, torch.float32, count * channels * (channels + 1)),
        _as_taken("erased", changes.erased, torch.bool, count * prod(size)),
        _as_taken("mean", mean, torch.float32, channels),
        _as_taken("std", std, torch.float32, channels),
        _as_taken("grey", changes.grey, torch.float32, channels),
    ]
    if changes.colours is not None and changes.grey is None:
        raise ValueError("colours without grey")
    result = room((count, channels, *size), dtype)
    library().prepare_images(
        *addresses(*held, result),
        count,
        channels,
        *size,
        dtype == torch.bfloat16,
        torch.get_num_threads(),
    )
    return result


def _as_taken(
    name: str, tensor: Tensor | None, dtype: torch.dtype, num_values: int
) -> Tensor | None:
    """Laid out as the kernel reads it, which knows no bounds but those that it is told."""
    if tensor is None:
        return None
    if tensor.device.type != "cpu" or tensor.dtype != dtype or tensor.numel() != num_values:
        shape = tuple(tensor.shape)
        raise ValueError(f"{name} of {shape}, {tensor.dtype}: not {num_values} values of {dtype}")
    return tensor.contiguous()
