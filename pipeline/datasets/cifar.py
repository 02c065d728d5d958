"""CIFAR-10 and CIFAR-100: 32x32 colour photographs, 50,000 to train and 10,000 to test.

https://www.cs.toronto.edu/~kriz/cifar.html
"""

from __future__ import annotations

import pickle
import shutil
from abc import abstractmethod
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np

from pipeline.datasets.base import DataSettings, ImageSet, Progress, file_stamps
from pipeline.datasets.download import fetch, verified


class _CifarSettings(DataSettings):
    """torchvision's archive and folder layout; every file is verified whenever it is read."""

    @abstractmethod
    def _published(self) -> Any:
        """torchvision's class: the address, the files and their checksums."""

    def has_test_split(self) -> bool:
        return True

    def stamp(self) -> object:
        published = self._published()
        folder = Path(self.root).expanduser() / published.base_folder
        names = [published.meta["filename"], *(name for name, _ in published.train_list)]
        return file_stamps([folder / name for name in names])

    def read(
        self, split: Literal["train", "test"], progress: Progress
    ) -> tuple[ImageSet, tuple[str, ...]]:
        published = self._published()
        root = Path(self.root).expanduser()
        files = published.train_list if split == "train" else published.test_list
        meta_file, meta_md5 = published.meta["filename"], published.meta["md5"]
        folder = _unpacked(published, root, [meta_file, *(name for name, _ in files)], progress)
        batches = [_unpickled(folder / name, md5) for name, md5 in files]
        images = np.concatenate([batch["data"] for batch in batches]).reshape(-1, 3, 32, 32)
        label_key = "labels" if "labels" in batches[0] else "fine_labels"
        labels = np.concatenate([batch[label_key] for batch in batches]).astype(np.int64)
        meta = _unpickled(folder / meta_file, meta_md5)
        return ImageSet(images, labels), tuple(meta[published.meta["key"]])


class Cifar10Settings(_CifarSettings):
    """CIFAR-10, downloaded when it is not there (170 MB)."""

    kind: Literal["cifar10"] = "cifar10"

    def _published(self) -> Any:
        from torchvision.datasets import CIFAR10

        return CIFAR10


class Cifar100Settings(_CifarSettings):
    """CIFAR-100 with its 100 fine classes, downloaded when it is not there (169 MB)."""

    kind: Literal["cifar100"] = "cifar100"

    def _published(self) -> Any:
        from torchvision.datasets import CIFAR100

        return CIFAR100


def _unpacked(published: Any, root: Path, needed: list[str], progress: Progress) -> Path:
    """The folder with the unpacked files, after downloading and unpacking what is missing."""
    folder: Path = root / published.base_folder
    if not all((folder / name).exists() for name in needed):
        archive = root / published.filename
        fetch(published.url, archive, published.tgz_md5, progress)
        verified(archive, published.tgz_md5)
        folder.mkdir(exist_ok=True)
        with TemporaryDirectory(dir=root, prefix=".unpack-") as temporary:
            shutil.unpack_archive(archive, temporary, filter="data")
            for file in Path(temporary, published.base_folder).iterdir():
                file.replace(folder / file.name)
    return folder


def _unpickled(path: Path, md5: str) -> dict[str, Any]:
    """The content of a pickle, which runs code: the published bytes, and no others."""
    content: dict[str, Any] = pickle.loads(verified(path, md5), encoding="latin1")  # noqa: S301
    return content
