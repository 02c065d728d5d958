"""Fashion-MNIST: 28x28 greyscale articles of clothing, 60,000 to train and 10,000 to test.

https://arxiv.org/abs/1708.07747
"""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Literal

import numpy as np

from pipeline.datasets.base import DataSettings, ImageSet, Progress, file_stamps
from pipeline.datasets.download import fetch, verified

_IMAGES_HEADER_BYTES, _LABELS_HEADER_BYTES = 16, 8


class FashionMnistSettings(DataSettings):
    """Fashion-MNIST, downloaded when it is not there (31 MB), in torchvision's folder layout."""

    kind: Literal["fashion_mnist"] = "fashion_mnist"

    def has_test_split(self) -> bool:
        return True

    def stamp(self) -> object:
        from torchvision.datasets import FashionMNIST

        folder = self._folder()
        return file_stamps(
            [folder / name for name, _ in FashionMNIST.resources if name.startswith("train")]
        )

    def _folder(self) -> Path:
        return Path(self.root).expanduser() / "FashionMNIST" / "raw"

    def read(
        self, split: Literal["train", "test"], progress: Progress
    ) -> tuple[ImageSet, tuple[str, ...]]:
        from torchvision.datasets import FashionMNIST

        folder = self._folder()
        # all four now, though two are read: the test must not need the network days later
        for name, md5 in FashionMNIST.resources:
            fetch(FashionMNIST.mirrors[0] + name, folder / name, md5, progress)
        prefix = "train" if split == "train" else "t10k"
        images, labels = (
            gzip.decompress(verified(folder / name, md5))
            for name, md5 in FashionMNIST.resources
            if name.startswith(prefix)
        )
        return (
            ImageSet(
                np.frombuffer(images, np.uint8, offset=_IMAGES_HEADER_BYTES).reshape(-1, 1, 28, 28),
                np.frombuffer(labels, np.uint8, offset=_LABELS_HEADER_BYTES).astype(np.int64),
            ),
            tuple(FashionMNIST.classes),
        )
