"""Three loops that train the same net: regsearch's, the tutorials', and a tuned DataLoader's."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from benchmarks.cases import LEARNING_RATE, Case
from pipeline.augmentation import AugmentationSettings
from pipeline.calibration import Precision, calibrate, cpu_engines
from pipeline.datasets import ImageSet, Splits
from pipeline.memory import keep_freed
from pipeline.models import build_model
from pipeline.regularizers import RegularizationSettings
from pipeline.seeding import TrialSeeds
from pipeline.training.data import DeviceData
from pipeline.training.engine import Engine, Steps
from pipeline.training.loop import Trainer
from pipeline.training.metrics import Metric
from pipeline.training.precision import resolve_precision
from pipeline.training.recipe import Recipe
from pipeline.training.structure import Structure

Report = Callable[[float, float], None]
"""Called after each epoch with its seconds of training and its validation accuracy."""
Loop = Callable[[Case, Splits, int, int, Report], None]
"""Trains a case for so many epochs: (case, splits, seed, epochs, report)."""

METRIC: Metric = "validation/accuracy"
CPU = torch.device("cpu")


def ours(case: Case, splits: Splits, seed: int, num_epochs: int, report: Report) -> None:
    """The trainer and the step that trials use, with the threads that are fastest for one worker,
    and the precision and the engine that a study chooses."""
    data = DeviceData.from_splits(splits, CPU, seed)

    def trainer(precision: Precision, engine: Engine) -> Trainer:
        recipe, net = recipe_of(case, num_epochs, precision), net_of(case, splits, seed)
        shared = Steps(data, engine).get(case, net, recipe, Structure.of(recipe))
        return Trainer(net, data, recipe, METRIC, TrialSeeds.of(seed, 0), shared)

    keep_freed()
    calibration = calibrate(trainer, num_workers=1, engines=cpu_engines())
    torch.set_num_threads(calibration.threads)
    _train(trainer(calibration.precision, calibration.engine), report)


def ours_in_a_thread(
    case: Case, splits: Splits, seed: int, num_epochs: int, report: Report
) -> None:
    """The same with one thread: one of the workers that share the cores in a study."""
    torch.set_num_threads(1)
    ours(case, splits, seed, num_epochs, report)


def _train(trainer: Trainer, report: Report) -> None:
    def each_epoch(_: int, metrics: Mapping[str, float]) -> None:
        report(metrics["epoch_sec"], metrics[METRIC])

    trainer.fit(each_epoch)


def tutorial(case: Case, splits: Splits, seed: int, num_epochs: int, report: Report) -> None:
    """The loop of the tutorials: two workers, PIL transforms image by image, float32, Adam."""
    net = net_of(case, splits, seed)
    optimizer = torch.optim.Adam(net.parameters(), lr=LEARNING_RATE)
    loader = pil_loader(case, splits, num_workers=2)
    for seconds, accuracy in tutorial_epochs(net, loader, splits, optimizer, num_epochs):
        report(seconds, accuracy)


def tuned(case: Case, splits: Splits, seed: int, num_epochs: int, report: Report) -> None:
    """What a tuned one has: a worker a core, kept alive, channels_last, bfloat16, fused Adam."""
    net = net_of(case, splits, seed).to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(net.parameters(), lr=LEARNING_RATE, fused=True)
    workers = len(os.sched_getaffinity(0))
    loader = pil_loader(case, splits, num_workers=workers, persistent_workers=True)
    # bfloat16 where it is any use: without the instructions, it would be slowed down by it
    dtype = resolve_precision("auto", CPU)
    for seconds, accuracy in tutorial_epochs(net, loader, splits, optimizer, num_epochs, dtype):
        report(seconds, accuracy)


LOOPS: dict[str, Loop] = {
    "regsearch": ours,
    "regsearch, one thread": ours_in_a_thread,
    "tutorial": tutorial,
    "tuned": tuned,
}


def recipe_of(case: Case, num_epochs: int, precision: Precision) -> Recipe:
    """The case as a trial's recipe, without early stopping."""
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


def net_of(case: Case, splits: Splits, seed: int, dropout: float = 0.0) -> nn.Module:
    """The case's net, with its first weights from the seed."""
    torch.manual_seed(seed)
    regularization = RegularizationSettings(dropout=dropout)
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


def pil_loader(case: Case, splits: Splits, **options: Any) -> DataLoader[tuple[Tensor, int]]:
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


def tutorial_epochs(
    net: nn.Module,
    loader: DataLoader[tuple[Tensor, int]],
    splits: Splits,
    optimizer: torch.optim.Optimizer,
    num_epochs: int,
    dtype: torch.dtype = torch.float32,
) -> Iterator[tuple[float, float]]:
    """Seconds of training and validation accuracy, epoch by epoch."""
    layout = _layout(net)
    for _ in range(num_epochs):
        started = time.perf_counter()
        net.train()
        running_loss = 0.0
        for images, labels in loader:
            with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
                loss = F.cross_entropy(net(images.to(memory_format=layout)), labels)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            running_loss += loss.item()
        yield time.perf_counter() - started, _accuracy(net, splits)


def _layout(net: nn.Module) -> torch.memory_format:
    last = any(
        p.dim() == 4
        and not p.is_contiguous()
        and p.is_contiguous(memory_format=torch.channels_last)
        for p in net.parameters()
    )
    return torch.channels_last if last else torch.contiguous_format


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
