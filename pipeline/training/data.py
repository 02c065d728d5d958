"""The images on the device: held once as uint8, normalised batch by batch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.datasets import ImageSet, Splits
from pipeline.seeding import generator

PROBE_IMAGES = 2_000


@dataclass(frozen=True)
class DeviceSplit:
    """One split: images (N, C, H, W) uint8 and labels (N,) int64, on one device."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class DeviceData:
    """What a trial trains and is judged on.

    `probe` is a fixed sample of the training images, at most as many as the validation split has.
    It is scored un-augmented and in eval mode, so that its distance to the validation score is
    the generalization gap and nothing else.
    """

    train: DeviceSplit
    validation: DeviceSplit
    probe: DeviceSplit
    mean: Tensor
    std: Tensor
    num_classes: int

    @classmethod
    def from_splits(cls, splits: Splits, device: torch.device, seed: int) -> DeviceData:
        """Copy the training and validation splits to the device; the latter may be empty."""
        most = len(splits.validation) or PROBE_IMAGES
        count = min(len(splits.train), most, PROBE_IMAGES)
        chosen = generator(seed, "order").permutation(len(splits.train))[:count]
        probe = ImageSet(splits.train.images[chosen], splits.train.labels[chosen])
        shape = (1, -1, 1, 1)
        return cls(
            train=to_device(splits.train, device),
            validation=to_device(splits.validation, device),
            probe=to_device(probe, device),
            mean=torch.from_numpy(splits.channel_mean).to(device).view(shape),
            std=torch.from_numpy(splits.channel_std).to(device).view(shape),
            num_classes=splits.num_classes,
        )

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width


def to_device(split: ImageSet, device: torch.device) -> DeviceSplit:
    """A split on the device; on the CPU it shares the arrays' memory."""
    return DeviceSplit(
        torch.from_numpy(split.images).to(device), torch.from_numpy(split.labels).to(device)
    )
