"""Geometry of a batch: an exact integer shift and flip, or one bilinear resampling.

An affine map is a (N, 3, 3) float32 matrix that takes a position in the output to the position in
the input it shows, in pixels from the image's centre (x right, y down). Outside the image is black.
Matrices are multiplied element by element: TF32 or autocast would cost pixels their place.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def shift_and_flip(images: Tensor, dy: Tensor, dx: Tensor, flip: Tensor) -> Tensor:
    """Crops and mirrors exactly: output (y, x) is input (y + dy, x' + dx), 0 outside.

    Args:
        images: (N, C, H, W), any dtype, which is kept.
        dy: (N,) int64, how far down the window is moved, in pixels.
        dx: (N,) int64, how far to the right.
        flip: (N,) bool; where set, the window is mirrored: x' = W - 1 - x instead of x.
    """
    num_images, num_channels, height, width = images.shape
    y = torch.arange(height, device=images.device) + dy[:, None]
    x = torch.arange(width, device=images.device)
    x = torch.where(flip[:, None], width - 1 - x, x) + dx[:, None]
    inside = ((y >= 0) & (y < height))[:, :, None] & ((x >= 0) & (x < width))[:, None, :]
    index = y.clamp(0, height - 1)[:, :, None] * width + x.clamp(0, width - 1)[:, None, :]
    index = index.view(num_images, 1, -1).expand(-1, num_channels, -1)
    return images.flatten(2).gather(2, index).view(images.shape).mul_(inside[:, None])


def shift_and_flip_map(dy: Tensor, dx: Tensor, flip: Tensor) -> Tensor:
    """The same crop and mirroring as an affine map, (N, 3, 3); arguments (N,) as above."""
    one, zero = torch.ones_like(dy), torch.zeros_like(dy)
    sign = torch.where(flip, -one, one)
    return _matrix((sign, zero, dx), (zero, one, dy))


def affine_map(angle: Tensor, translate_x: Tensor, translate_y: Tensor, scale: Tensor) -> Tensor:
    """Zooms and rotates about the centre, then translates; torchvision's `affine`.

    Args:
        angle: (N,) radians, clockwise.
        translate_x: (N,) pixels to the right.
        translate_y: (N,) pixels down.
        scale: (N,) factor, above 0; 2 shows everything twice as large.
    """
    cos, sin = angle.cos() / scale, angle.sin() / scale
    offset_x = -(cos * translate_x + sin * translate_y)
    offset_y = sin * translate_x - cos * translate_y
    return _matrix((cos, sin, offset_x), (-sin, cos, offset_y))


def shear_map(shear_x: Tensor, shear_y: Tensor) -> Tensor:
    """Shows (x + shear_x * y, y + shear_y * x), (N, 3, 3); arguments (N,), pixels per pixel."""
    one, zero = torch.ones_like(shear_x), torch.zeros_like(shear_x)
    return _matrix((one, shear_x, zero), (shear_y, one, zero))


def compose(first: Tensor, second: Tensor) -> Tensor:
    """The map of doing `first` and then `second` to the images; all (N, 3, 3)."""
    return (first[:, :, :, None] * second[:, None, :, :]).sum(2)


def resample(images: Tensor, maps: Tensor) -> Tensor:
    """Bilinear resampling of (N, C, H, W) float images through (N, 3, 3) maps.

    Images whose map is the identity come back bit for bit.
    """
    height, width = images.shape[2:]
    x = torch.arange(width, device=images.device) - (width - 1) / 2
    y = torch.arange(height, device=images.device)[:, None] - (height - 1) / 2
    # The sampler counts positions in half sides.
    rows = torch.stack([maps[:, 0] * (2 / width), maps[:, 1] * (2 / height)], dim=1)[
        ..., None, None
    ]
    grid = rows[:, :, 0] * x + (rows[:, :, 1] * y + rows[:, :, 2])
    sampled = F.grid_sample(images, grid.permute(0, 2, 3, 1), align_corners=False)
    if _is_power_of_two(height) and _is_power_of_two(width):
        return sampled  # Half sides are then exact, and with them the identity.
    moved = (maps != torch.eye(3, device=maps.device)).flatten(1).any(dim=1)
    return torch.where(moved[:, None, None, None], sampled, images)


def _is_power_of_two(side: int) -> bool:
    return side & (side - 1) == 0


def _matrix(row_x: tuple[Tensor, ...], row_y: tuple[Tensor, ...]) -> Tensor:
    one, zero = torch.ones_like(row_x[0]), torch.zeros_like(row_x[0])
    return torch.stack([*row_x, *row_y, zero, zero, one], dim=1).view(-1, 3, 3).float()
