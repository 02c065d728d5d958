"""Batched augmentation on the device: one index or one grid, one colour matrix, one mask.

The settings are imported from here without torch; the work is done by `augmentation.Augmentation`.
"""

from pipeline.augmentation.settings import AugmentationSettings

__all__ = ["AugmentationSettings"]
