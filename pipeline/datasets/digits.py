"""The 8x8 digits that come with scikit-learn: 1,797 greyscale images, nothing to download.

https://archive.ics.uci.edu/dataset/80/optical+recognition+of+handwritten+digits
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np

from pipeline.datasets.base import DataSettings, ImageSet, Progress


class DigitsSettings(DataSettings):
    """scikit-learn's digits; grey levels 0 to 16 become 0 to 255."""

    imports: ClassVar[tuple[str, ...]] = ("sklearn.datasets",)

    kind: Literal["digits"] = "digits"

    def has_test_split(self) -> bool:
        return False

    def read(
        self,
        split: Literal["train", "test"],  # noqa: ARG002
        progress: Progress,  # noqa: ARG002
    ) -> tuple[ImageSet, tuple[str, ...]]:
        from sklearn.datasets import load_digits

        digits = load_digits()
        images = np.rint(digits.images * (255 / 16)).astype(np.uint8)[:, np.newaxis]
        return ImageSet(images, digits.target.astype(np.int64)), tuple("0123456789")
