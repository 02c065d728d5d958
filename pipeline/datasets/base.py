"""What every source of images shares: its settings, the splits, and the wall around the test split.

A source says where its images are; `loading` draws the splits, the same way for all of them. Four
parts, and one purpose each: `train` fits the weights, `validation` scores the trials, `selection`
compares the finalists on images that the search never saw, and `test` (through `load_test`, for the
evaluation alone) says what the winner is worth.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from pipeline.datasets.stratify import Indices
from pipeline.settings import Settings

Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]
Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and the total (0: not known)."""


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

    root: str = "data"
    """Folder that holds the data set, or that it is downloaded to."""
    cache: str = "data/cache"
    """Folder for what is made of the images once; it can be deleted at any time."""
    validation_fraction: Annotated[float, Field(gt=0, lt=0.5)] = 0.1
    """Share of each class that scores the trials, out of the images that are not test images."""
    selection_fraction: Annotated[float, Field(ge=0, lt=0.5)] = 0.1
    """Share of each class that compares the finalists, of the same images; 0 for none."""
    test_fraction: Annotated[float, Field(gt=0, lt=0.5)] = 0.2
    """Share of each class kept for the test; used only by sources without a test split."""
    train_images: Annotated[int | None, Field(ge=1)] = None
    """Train on this many images, with the classes in proportion; all when not given."""

    def stamp(self) -> object:
        """Says, by its `repr`, which files the training images come from, without reading them: it
        is another one as soon as they change. None where they are not there, or nothing is gained
        by keeping what was made of them."""
        return None

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
        channel_mean: mean of each channel of the training images, float32, (C,), in [0, 1].
        channel_std: standard deviation of each channel, float32, (C,), no less than one grey level.
        file: what they are kept in, for other processes of this machine; None if they aren't.
    """

    train: ImageSet
    validation: ImageSet
    selection: ImageSet
    class_names: tuple[str, ...]
    digest: str
    source: str
    channel_mean: npt.NDArray[np.float32]
    channel_std: npt.NDArray[np.float32]
    file: Path | None = None

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        _, channels, height, width = self.train.images.shape
        return channels, height, width

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    def folded(self) -> Splits:
        """The same with the validation images among the training images, and none to validate on.

        Mean and deviation stay the training images', so that nets of both see the same inputs.
        """
        both = (self.train, self.validation)
        train = ImageSet(
            np.concatenate([part.images for part in both]),
            np.concatenate([part.labels for part in both]),
        )
        none = self.validation.take(np.arange(0))
        return replace(self, train=train, validation=none, file=None)


def file_stamps(paths: Sequence[Path]) -> list[tuple[str, int, int]] | None:
    """Where files are, how long they are and when they were written to; None if one is missing."""
    try:
        found = [(str(path.resolve()), path.stat()) for path in paths]
    except FileNotFoundError:
        return None
    return [(path, status.st_size, status.st_mtime_ns) for path, status in found]
