"""Batched augmentation on the device: one index or one grid, one colour matrix, one mask."""

from pipeline.augmentation.augmentation import Augmentation
from pipeline.augmentation.settings import AugmentationSettings

__all__ = ["Augmentation", "AugmentationSettings"]
