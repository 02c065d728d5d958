"""Three loops that train the same net: regsearch's, the tutorials', and a tuned DataLoader's."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from benchmarks.cases import LEARNING_RATE, Case
from pipeline.augmentation import AugmentationSettings
from pipeline.calibration import Precision, calibrate
from pipeline.datasets import ImageSet, Splits
from pipeline.models import build_model
from pipeline.regularizers import RegularizationSettings
from pipeline.seeding import TrialSeeds
from pipeline.training.data import DeviceData
from pipeline.training.loop import Trainer
from pipeline.training.metrics import Metric
from pipeline.training.recipe import Recipe

Report = Callable[[float, float], None]
"""Called after each epoch with its seconds of training and its validation accuracy."""
Loop = Callable[[Case, Splits, int, int, Report], None]
"""Trains a case for so many epochs: (case, splits, seed, epochs, report)."""

METRIC: Metric = "validation/accuracy"
CPU = torch.device("cpu")


def ours(case: Case, splits: Splits, seed: int, num_epochs: int, report: Report) -> None:
    """The trainer that trials use, with threads and precision as a study chooses them."""
    data = DeviceData.from_splits(splits, CPU, seed)

    def trainer(precision: Precision) -> Trainer:
        recipe = _recipe(case, num_epochs, precision)
        return Trainer(_net(case, splits, seed), data, recipe, METRIC, TrialSeeds.of(seed, 0))

    calibration = calibrate(trainer)
    torch.set_num_threads(calibration.threads)

    def each_epoch(_: int, metrics: Mapping[str, float]) -> None:
        report(metrics["epoch_sec"], metrics[METRIC])

    trainer(calibration.precision).fit(each_epoch)


def tutorial(case: Case, splits: Splits, seed: int, num_epochs: int, report: Report) -> None:
    """The loop of the tutorials: two workers, PIL transforms image by image, float32, Adam."""
    loader = _loader(case, splits, num_workers=2)
    _dataloader_loop(_net(case, splits, seed), loader, splits, num_epochs, report)


def tuned(case: Case, splits: Splits, seed: int, num_epochs: int, report: Report) -> None:
    """What a tuned one has: a worker a core, kept alive, channels_last, bfloat16, fused Adam."""
    workers = len(os.sched_getaffinity(0))
    loader = _loader(case, splits, num_workers=workers, persistent_workers=True)
    _dataloader_loop(_net(case, splits, seed), loader, splits, num_epochs, report, is_tuned=True)


LOOPS: dict[str, Loop] = {"regsearch": ours, "tutorial": tutorial, "tuned": tuned}


def _recipe(case: Case, num_epochs: int, precision: Precision) -> Recipe:
    return Recipe.model_validate(
        {
            "training": {
                "epochs": num_epochs,
                "batch_size": case.batch_size,
                "precision": precision,
                "optimizer": {"kind": "adam", "learning_rate": LEARNING_RATE},
                "early_stopping": {"patience": num_epochs},
            },
            "lr_schedule": {"kind": "constant"},
            "augmentation": case.augmentation_settings,
        }
    )


def _net(case: Case, splits: Splits, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    regularization = RegularizationSettings()
    return build_model(case.net, regularization, splits.image_shape, splits.num_classes)


class _PilImages(Dataset[tuple[Tensor, int]]):
    """Images as torchvision's data sets give them: transformed from PIL, one by one."""

    def __init__(self, images: ImageSet, transform: transforms.Compose) -> None:
        self.images = images.images.transpose(0, 2, 3, 1).copy()  # torchvision keeps (N, H, W, C)
        self.labels, self.transform = images.labels, transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = Image.fromarray(self.images[index])
        return self.transform(image), int(self.labels[index])


def _loader(case: Case, splits: Splits, **options: Any) -> DataLoader[tuple[Tensor, int]]:
    to_tensor = [
        transforms.ToTensor(),
        transforms.Normalize(splits.channel_mean.tolist(), splits.channel_std.tolist()),
    ]
    augmentation = _transforms(case.augmentation_settings, splits.image_shape[1])
    dataset = _PilImages(splits.train, transforms.Compose([*augmentation, *to_tensor]))
    return DataLoader(
        dataset,
        case.batch_size,
        shuffle=True,
        drop_last=True,
        multiprocessing_context="fork",  # here the default would be spawn: seconds an epoch
        **options,
    )


def _transforms(settings: AugmentationSettings, side: int) -> list[nn.Module]:
    """torchvision's counterparts of the settings."""
    padding = round(settings.crop_padding_fraction * side)
    chosen = [transforms.RandomCrop(side, padding=padding), transforms.RandomHorizontalFlip()]
    if settings.rotation_degrees:
        bilinear = transforms.InterpolationMode.BILINEAR
        chosen.append(transforms.RandomRotation(settings.rotation_degrees, bilinear))
    if settings.brightness:
        jitter = settings.brightness, settings.contrast, settings.saturation
        chosen.append(transforms.ColorJitter(*jitter))
    return chosen


def _dataloader_loop(
    net: nn.Module,
    loader: DataLoader[tuple[Tensor, int]],
    splits: Splits,
    num_epochs: int,
    report: Report,
    is_tuned: bool = False,
) -> None:
    layout = torch.channels_last if is_tuned else torch.contiguous_format
    net.to(memory_format=layout)
    optimizer = torch.optim.Adam(net.parameters(), lr=LEARNING_RATE, fused=is_tuned or None)
    for _ in range(num_epochs):
        started = time.perf_counter()
        net.train()
        running_loss = 0.0
        for images, labels in loader:
            with torch.autocast("cpu", torch.bfloat16, enabled=is_tuned):
                loss = F.cross_entropy(net(images.to(memory_format=layout)), labels)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            running_loss += loss.item()
        report(time.perf_counter() - started, _accuracy(net, splits))


@torch.inference_mode()
def _accuracy(net: nn.Module, splits: Splits) -> float:
    net.eval()
    mean, std = (
        torch.from_numpy(value).view(1, -1, 1, 1)
        for value in (splits.channel_mean, splits.channel_std)
    )
    images = torch.from_numpy(splits.validation.images)
    answers = [net((batch / 255 - mean) / std).argmax(dim=1) for batch in torch.split(images, 500)]
    return float((torch.cat(answers) == torch.from_numpy(splits.validation.labels)).float().mean())
