"""Black rectangles: the square of Cutout and the rectangle of Random Erasing, as masks."""

from __future__ import annotations

import math

import torch
from torch import Tensor

AREA_FRACTION = (0.02, 0.33)
ASPECT_RATIO = (0.3, 3.3)


def mask(
    top: Tensor, left: Tensor, height: Tensor, width: Tensor, image_size: tuple[int, int]
) -> Tensor:
    """True inside a rectangle, (N, 1, H, W); what hangs over the edge is cut off.

    Args:
        top, left, height, width: (N,) or 0-d, in whole pixels; a height or width of 0 is empty.
        image_size: (H, W).
    """
    rows = torch.arange(image_size[0], device=top.device)
    columns = torch.arange(image_size[1], device=top.device)
    top, left = top[:, None], left[:, None]
    in_rows = (rows >= top) & (rows < top + height[..., None])
    in_columns = (columns >= left) & (columns < left + width[..., None])
    return (in_rows[:, :, None] & in_columns[:, None, :])[:, None]


def cutout_mask(draws: Tensor, side: Tensor, image_size: tuple[int, int]) -> Tensor:
    """The square of Cutout (https://arxiv.org/abs/1708.04552), (N, 1, H, W).

    Its centre is any pixel, so that part of it may lie outside the image.

    Args:
        draws: (2, N) uniform in [0, 1): where the centre is.
        side: 0-d, whole pixels.
        image_size: (H, W).
    """
    half = (side / 2).floor()
    top = (draws[0] * image_size[0]).floor() - half
    left = (draws[1] * image_size[1]).floor() - half
    return mask(top, left, side, side, image_size)


def random_erasing_mask(draws: Tensor, probability: Tensor, image_size: tuple[int, int]) -> Tensor:
    """The rectangle of Random Erasing (https://arxiv.org/abs/1708.04896), (N, 1, H, W).

    The area is uniform in 2-33 % of the image, the logarithm of the aspect ratio uniform between
    0.3 and 3.3. A rectangle longer than the image is shortened, where the paper draws again.

    Args:
        draws: (5, N) uniform in [0, 1): whether, area, aspect ratio, top, left.
        probability: 0-d.
        image_size: (H, W).
    """
    chosen, area, aspect, top, left = draws
    area = _between(*AREA_FRACTION, area) * image_size[0] * image_size[1]
    low, high = ASPECT_RATIO
    aspect = _between(math.log(low), math.log(high), aspect).exp()
    height = (area * aspect).sqrt().round().clamp(1, image_size[0])
    width = (area / aspect).sqrt().round().clamp(1, image_size[1])
    top = (top * (image_size[0] + 1 - height)).floor()
    left = (left * (image_size[1] + 1 - width)).floor()
    return mask(top, left, height * (chosen < probability), width, image_size)


def _between(low: float, high: float, draws: Tensor) -> Tensor:
    return low + (high - low) * draws
