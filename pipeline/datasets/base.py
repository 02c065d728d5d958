"""What every source of images shares: its settings, the splits, and the wall around the test split.

A source says where its images are; the splits are drawn here, the same way for all of them. Four
parts, and one purpose each: `train` fits the weights, `validation` scores the trials, `selection`
compares the finalists on images that the search never saw, and `test` (through `load_test`, for the
evaluation alone) says what the winner is worth.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from pipeline.datasets.stratify import Indices, Partition, partition, subset
from pipeline.seeding import generator
from pipeline.settings import Settings

Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]
Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and the total (0: not known)."""

_CHUNK = 4096  # images hashed or averaged at a time: bounds the copies made of a large data set


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images and their labels.

    Args:
        images: uint8, (N, C, H, W), C-contiguous.
        labels: int64, (N,), each an index into the class names.
    """

    images: Images
    labels: Labels

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: Indices) -> ImageSet:
        """A copy in memory of the images at these indices, in their order."""
        return ImageSet(np.ascontiguousarray(self.images[indices]), self.labels[indices])


class DataSettings(Settings, ABC):
    """Where the images come from and how they are split.

    A source subclasses this with its `kind`, its own settings and the two methods below.
    """

    imports: ClassVar[tuple[str, ...]] = ()
    """Modules that reading takes: workers load them once for all."""

    root: str = "data"
    """Folder that holds the data set, or that it is downloaded to."""
    validation_fraction: Annotated[float, Field(gt=0, lt=0.5)] = 0.1
    """Share of each class that scores the trials, out of the images that are not test images."""
    selection_fraction: Annotated[float, Field(ge=0, lt=0.5)] = 0.1
    """Share of each class that compares the finalists, of the same images; 0 for none."""
    test_fraction: Annotated[float, Field(gt=0, lt=0.5)] = 0.2
    """Share of each class kept for the test; used only by sources without a test split."""
    train_images: Annotated[int | None, Field(ge=1)] = None
    """Train on this many images, with the classes in proportion; all when not given."""

    @abstractmethod
    def has_test_split(self) -> bool:
        """Whether the source comes with test images of its own."""

    @abstractmethod
    def read(
        self, split: Literal["train", "test"], progress: Progress
    ) -> tuple[ImageSet, tuple[str, ...]]:
        """The source's own train or test images, and the names of its classes.

        Only the files of the split asked for are read. Without a test split of its own, a source
        has everything under "train". The arrays may be read-only or memory-mapped.

        Raises:
            UserError: the data set is missing or damaged, and cannot be had.
        """


@dataclass(frozen=True, eq=False)
class Splits:
    """What a search may see: disjoint, stratified, and never a test image.

    Args:
        digest: 16 hexadecimal digits over the pool, that is over all images and labels of the
            three splits before `train_images` takes its subset.
        source: the `kind` of the data set.
    """

    train: ImageSet
    validation: ImageSet
    selection: ImageSet
    class_names: tuple[str, ...]
    digest: str
    source: str

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        _, channels, height, width = self.train.images.shape
        return channels, height, width

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def channel_mean(self) -> npt.NDArray[np.float32]:
        """Mean of each channel of the training images, float32, (C,), in [0, 1]."""
        return self._channel_moments[0]

    @property
    def channel_std(self) -> npt.NDArray[np.float32]:
        """Standard deviation of each channel, float32, (C,), no less than one grey level."""
        return self._channel_moments[1]

    @cached_property
    def _channel_moments(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        images = self.train.images
        total, squares = np.zeros((2, images.shape[1]))
        for start in range(0, len(images), _CHUNK):
            values = images[start : start + _CHUNK].astype(np.float32)
            total += values.sum(axis=(0, 2, 3), dtype=np.float64)
            squares += np.square(values).sum(axis=(0, 2, 3), dtype=np.float64)
        pixels = images.size / images.shape[1]
        mean = total / pixels
        std = np.sqrt(np.maximum(squares / pixels - mean**2, 1.0))
        return (mean / 255).astype(np.float32), (std / 255).astype(np.float32)


def load_splits(settings: DataSettings, seed: int, progress: Progress | None = None) -> Splits:
    """Train, validation and selection images, drawn by `seed` alone, class by class.

    `train_images` does not change who is in validation and selection.

    Raises:
        UserError: the data set is missing or damaged, a class has too few images, or there are
            fewer training images than `train_images`.
    """
    pool, class_names = settings.read("train", progress or _silent)
    parts = _partition(settings, pool.labels, class_names, seed)
    train = parts.train
    if settings.train_images is not None:
        train = subset(train, settings.train_images, class_names)
    return Splits(
        train=pool.take(_sorted(train)),
        validation=pool.take(_sorted(parts.validation)),
        selection=pool.take(_sorted(parts.selection)),
        class_names=class_names,
        digest=_digest(pool, _sorted(parts.train + parts.validation + parts.selection)),
        source=str(type(settings).model_fields["kind"].default),
    )


def load_test(settings: DataSettings, seed: int, progress: Progress | None = None) -> ImageSet:
    """The test images: the source's own, or the ones that `load_splits` left out under this seed.

    For `pipeline.evaluation` alone: whatever else looked at them would choose by them.

    Raises:
        UserError: as `load_splits`.
    """
    if settings.has_test_split():
        test, _ = settings.read("test", progress or _silent)
        return test.take(np.arange(len(test)))
    everything, class_names = settings.read("train", progress or _silent)
    parts = _partition(settings, everything.labels, class_names, seed)
    return everything.take(_sorted(parts.test))


def _partition(
    settings: DataSettings, labels: Labels, class_names: tuple[str, ...], seed: int
) -> Partition:
    return partition(
        labels,
        class_names,
        test_fraction=0.0 if settings.has_test_split() else settings.test_fraction,
        validation_fraction=settings.validation_fraction,
        selection_fraction=settings.selection_fraction,
        rng=generator(seed, "split"),
    )


def _sorted(by_class: list[Indices]) -> Indices:
    return np.sort(np.concatenate(by_class))


def _digest(data: ImageSet, indices: Indices) -> str:
    sha256 = hashlib.sha256(repr(data.images.shape[1:]).encode())
    for start in range(0, len(indices), _CHUNK):
        sha256.update(data.images[indices[start : start + _CHUNK]].data)
    sha256.update(data.labels[indices].data)
    return sha256.hexdigest()[:16]


def _silent(*_: Any) -> None:
    """The progress of those who do not want to know."""
