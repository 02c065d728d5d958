"""What augmentation comes to for the images of a batch, apart from how it is done."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Changes:
    """What is done to each of N images (C, H, W); None is nothing.

    Attributes:
        maps: (N, 3, 3) float32, as in `geometry`.
        colours: (N, C, C + 1) float32, as in `colour`, for images of the mean luma 1: the kernel
            multiplies the offsets by what an image has.
        erased: (N, 1, H, W) bool; these pixels become black.
    """

    maps: Tensor | None = None
    colours: Tensor | None = None
    erased: Tensor | None = None
