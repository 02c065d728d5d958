"""RandAugment (https://arxiv.org/abs/1909.13719), batched: each image draws its own operations.

The operations are `OPERATIONS`. Compared with torchvision's: sharpness and equalize are left out
(they need neighbours and histograms); shears are about the centre; the geometry of all rounds is
resampled once, bilinearly, before their colours; solarize inverts what is strictly above its
threshold; and autocontrast is blended in by magnitude / 30, so that magnitude 0 is the identity.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.augmentation import colour, geometry

OPERATIONS = (
    "identity", "shear_x", "shear_y", "translate_x", "translate_y", "rotate",
    "brightness", "contrast", "saturation", "posterize", "solarize", "autocontrast",
)  # fmt: skip
"""Equally likely. At magnitude 30: shear 0.3, translation 150/331 of the side, rotation 30 degrees,
colour factors 1 +- 0.9, 4 bits, solarize above 0."""


class Round(NamedTuple):
    """One operation for each image.

    Attributes:
        operation: (N,) int64, positions in `OPERATIONS`.
        sign: (N,) -1 or 1, the direction of those operations that have one.
        magnitude: 0-d in [0, 1], 1 being RandAugment's 30.
    """

    operation: Tensor
    sign: Tensor
    magnitude: Tensor

    @classmethod
    def drawn(cls, draws: Tensor, magnitude: Tensor) -> Round:
        """From (2, N) uniform draws in [0, 1)."""
        operation = (draws[0] * len(OPERATIONS)).floor().long()
        return cls(operation, torch.where(draws[1] < 0.5, -1.0, 1.0), magnitude)

    def amount(self, name: str) -> Tensor:
        """(N,) the magnitude for the images that drew this operation, 0 for the others."""
        return (self.operation == OPERATIONS.index(name)) * self.magnitude

    def signed(self, name: str, largest: float) -> Tensor:
        """(N,) the amount, up to `largest` either way."""
        return self.amount(name) * self.sign * largest


def affine_map(choice: Round, image_size: tuple[int, int]) -> Tensor:
    """The geometric operations of a round as maps, (N, 3, 3); the identity for the others."""
    height, width = image_size
    shear = geometry.shear_map(choice.signed("shear_x", 0.3), choice.signed("shear_y", 0.3))
    moved = geometry.affine_map(
        angle=choice.signed("rotate", torch.pi / 6),
        translate_x=choice.signed("translate_x", 150 / 331 * width),
        translate_y=choice.signed("translate_y", 150 / 331 * height),
        scale=torch.ones_like(choice.sign),
    )
    return geometry.compose(shear, moved)


def recolour(images: Tensor, choice: Round) -> Tensor:
    """The other operations of a round on (N, C, H, W) floats in [0, 1], where they stay."""
    matrices = colour.matrix(
        brightness=1 + choice.signed("brightness", 0.9),
        contrast=1 + choice.signed("contrast", 0.9),
        saturation=1 + choice.signed("saturation", 0.9),
        hue=torch.zeros_like(choice.sign),
        mean=colour.grey_mean(images),
        num_channels=images.shape[1],
    )
    gain, offset = _autocontrast(images, choice.amount("autocontrast"))
    matrices = matrices * gain[:, :, None] + F.pad(offset[:, :, None], (images.shape[1], 0))
    images = colour.apply(images, matrices)
    images = posterize(images, (4 * choice.amount("posterize")).round()).clamp_(0, 1)
    return solarize(images, 1 - choice.amount("solarize"))


def posterize(images: Tensor, num_bits_lost: Tensor) -> Tensor:
    """Clears that many (N,) of the low bits of the values' 8; 0 is neutral."""
    step = torch.exp2(num_bits_lost)[:, None, None, None]
    levels = (images * 255).round_()
    low_bits = levels.addcmul_((levels / step).floor_(), step, value=-1)
    return images.sub(low_bits, alpha=1 / 255)


def solarize(images: Tensor, threshold: Tensor) -> Tensor:
    """Inverts the values above the (N,) threshold; 1 is neutral."""
    return torch.where(images > threshold[:, None, None, None], 1 - images, images)


def _autocontrast(images: Tensor, degree: Tensor) -> tuple[Tensor, Tensor]:
    """Gain and offset, (N, C), that stretch each channel towards [0, 1] by the (N,) degree."""
    low, high = images.amin(dim=(2, 3)), images.amax(dim=(2, 3))
    # A flat channel has nothing to stretch.
    degree = degree[:, None] * (high > low)
    span = torch.where(high > low, high - low, 1.0)
    return 1 + degree * (1 / span - 1), -degree * low / span
