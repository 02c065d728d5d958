"""The 8x8 digits that come with scikit-learn: 1,797 greyscale images, nothing to download.

https://archive.ics.uci.edu/dataset/80/optical+recognition+of+handwritten+digits
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import numpy as np

from pipeline.datasets.base import DataSettings, ImageSet, Progress


class DigitsSettings(DataSettings):
    """scikit-learn's digits; grey levels 0 to 16 become 0 to 255."""

    kind: Literal["digits"] = "digits"

    def has_test_split(self) -> bool:
        return False

    def read(
        self,
        split: Literal["train", "test"],  # noqa: ARG002
        progress: Progress,  # noqa: ARG002
    ) -> tuple[ImageSet, tuple[str, ...]]:
        table = np.loadtxt(_file(), np.uint8, delimiter=",")
        images = np.rint(table[:, :64] * (255 / 16)).astype(np.uint8).reshape(-1, 1, 8, 8)
        return ImageSet(images, table[:, 64].astype(np.int64)), tuple("0123456789")


def _file() -> Path:
    """What `sklearn.datasets.load_digits` reads, found without importing scikit-learn, which takes
    each process almost two seconds."""
    found = find_spec("sklearn")
    assert found is not None
    assert found.submodule_search_locations
    return Path(found.submodule_search_locations[0], "datasets", "data", "digits.csv.gz")
