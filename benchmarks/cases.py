"""What is trained: a net, images and an augmentation, the same for every contender."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pipeline.augmentation import AugmentationSettings
from pipeline.datasets import ImageSet, Splits, load_splits
from pipeline.datasets.image_folder import ImageFolderSettings
from pipeline.datasets.loading import channel_moments
from pipeline.models.vgg import VggSettings

CROP_AND_FLIP = AugmentationSettings(
    strength=1.0, rotation_degrees=0.0, brightness=0.0, contrast=0.0, saturation=0.0
)
ALL = AugmentationSettings(strength=1.0)
"""Also rotation by 15 degrees and colour jitter of 0.2."""
AUGMENTATIONS = {"crop + flip": CROP_AND_FLIP, "crop + flip + rotation + jitter": ALL}

LEARNING_RATE = 1e-3


@dataclass(frozen=True)
class Case:
    """One row of the table."""

    width: int
    augmentation: str
    batch_size: int = 128

    @property
    def net(self) -> VggSettings:
        return VggSettings(width=self.width)

    @property
    def augmentation_settings(self) -> AugmentationSettings:
        return AUGMENTATIONS[self.augmentation]


def load_images(folder: Path | None, num_train: int | None, num_validation: int) -> Splits:
    """The first so many training and validation images of a folder, or random ones."""
    if folder is None:
        return _random_images(num_train or 10_240, num_validation)
    settings = ImageFolderSettings(root=str(folder), train_images=num_train)
    splits = load_splits(settings, seed=0)
    kept = np.random.default_rng(0).permutation(len(splits.validation))[:num_validation]
    return replace(splits, validation=splits.validation.take(kept))


def _random_images(num_train: int, num_validation: int) -> Splits:
    rng = np.random.default_rng(0)

    def draw(count: int) -> ImageSet:
        images = rng.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)
        return ImageSet(images, rng.integers(0, 10, count))

    parts = draw(num_train), draw(num_validation), draw(0)
    names = tuple("0123456789")
    return Splits(*parts, names, "random", "random", *channel_moments(parts[0].images))
