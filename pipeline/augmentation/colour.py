"""Colour of a batch: brightness, contrast, saturation and hue as one affine map of each pixel.

Brightness, contrast and saturation are torchvision's, in this order. The four are one matrix, so
values are clamped once at the end and not between them: an image differs from torchvision's only
where an intermediate result left [0, 1].
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

GREY_WEIGHTS = (0.299, 0.587, 0.114)
"""Luma of ITU-R BT.601: the grey that saturation and contrast blend with."""


def grey_weights(num_channels: int) -> tuple[float, ...]:
    """What each channel is of an image's luma: as much as the others, unless there are 3."""
    return GREY_WEIGHTS if num_channels == 3 else (1 / num_channels,) * num_channels


def grey_mean(images: Tensor) -> Tensor:
    """Mean luma of each image, (N,), from (N, C, H, W) floats; the plain mean unless C is 3."""
    means = images.mean(dim=(2, 3))
    grey = torch.zeros_like(means[:, 0])
    for channel, weight in enumerate(grey_weights(images.shape[1])):
        grey = grey + weight * means[:, channel]
    return grey


def matrix(
    brightness: Tensor,
    contrast: Tensor,
    saturation: Tensor,
    hue: Tensor,
    mean: Tensor,
    num_channels: int = 3,
) -> Tensor:
    """Brightness, then contrast, saturation and hue as (N, C, C + 1): matrix and offset.

    Neutral factors give the identity exactly.

    Args:
        brightness: (N,) factor, 1 is neutral; 0 is black.
        contrast: (N,) factor, 1 is neutral; 0 is the mean grey everywhere.
        saturation: (N,) factor, 1 is neutral; 0 is greyscale. Unused unless there are 3 channels.
        hue: (N,) turns, 0 is neutral: a rotation of RGB about the grey axis, which keeps r + g + b
            and is not the shift of HSV's hue. Unused unless there are 3 channels.
        mean: (N,) mean luma of the images before the change.
        num_channels: C.
    """
    if num_channels == 3:
        mix = _saturation_and_hue(saturation, hue)
    else:
        mix = torch.eye(num_channels, device=mean.device).expand(len(mean), -1, -1)
    # The rows of `mix` sum to 1: the grey offset passes through it unchanged.
    offset = ((1 - contrast) * brightness * mean)[:, None, None].expand(-1, num_channels, 1)
    return torch.cat([mix * (contrast * brightness)[:, None, None], offset], dim=2)


def apply(images: Tensor, matrices: Tensor) -> Tensor:
    """Applies (N, C, C + 1) colour matrices to (N, C, H, W) float images; not clamped.

    Written out rather than as a matrix product, which TF32 would round: the identity is exact.
    """
    coefficients = matrices[:, :, :, None, None]
    first, *others = images.unsqueeze(2).unbind(1)
    changed = torch.addcmul(coefficients[:, :, -1], coefficients[:, :, 0], first)
    for channel, values in enumerate(others, start=1):
        changed.addcmul_(coefficients[:, :, channel], values)
    return changed


def _saturation_and_hue(saturation: Tensor, hue: Tensor) -> Tensor:
    # Both keep grey, so a rotation R after s * I + (1 - s) * grey is s * R + (1 - s) * grey.
    angle = (2 * math.pi * hue)[:, None, None]
    one = torch.ones(3, 3, device=hue.device)
    identity = torch.eye(3, device=hue.device)
    cross = identity.roll(-1, dims=0).T - identity.roll(-1, dims=0)
    # Rodrigues' formula about the unit axis (1, 1, 1) / sqrt(3).
    rotation = (
        angle.cos() * identity + (1 - angle.cos()) / 3 * one + angle.sin() / math.sqrt(3) * cross
    )
    grey = torch.stack([one[0] * weight for weight in GREY_WEIGHTS], dim=1)
    return torch.lerp(grey, rotation, saturation[:, None, None])
