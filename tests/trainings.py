"""Small trainings for the tests."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline.kernels.library import COMPILERS
from pipeline.regularizers.dropout import dropout
from pipeline.regularizers.masks import set_rates
from pipeline.seeding import TrialSeeds
from pipeline.training.data import DeviceData, DeviceSplit
from pipeline.training.loop import FitResult, Trainer
from pipeline.training.metrics import Metric
from pipeline.training.recipe import Recipe

NEEDS_COMPILER = pytest.mark.skipif(
    not any(map(shutil.which, COMPILERS)), reason="there is no C++ compiler"
)
STANDS_STILL = {"kind": "sgd", "learning_rate": 1e-30}
Curves = list[dict[str, float]]


def recipe(
    epochs: int = 1,
    batch_size: int = 8,
    optimizer: Mapping[str, Any] | None = None,
    sections: Mapping[str, Any] | None = None,
    **training: Any,
) -> Recipe:
    training = {"precision": "float32"} | training
    training |= {"epochs": epochs, "batch_size": batch_size}
    training["optimizer"] = optimizer or {"learning_rate": 0.01}
    return Recipe.model_validate(
        {"training": training, "lr_schedule": {"kind": "constant"}} | dict(sections or {})
    )


def split(
    num_images: int, seed: int, low: int = 0, high: int = 256, num_channels: int = 1
) -> DeviceSplit:
    chance = torch.Generator().manual_seed(seed)
    shape = (num_images, num_channels, 8, 8)
    images = torch.randint(low, high, shape, dtype=torch.uint8, generator=chance)
    return DeviceSplit(images, torch.randint(0, 3, (num_images,), generator=chance))


def random_data(num_train: int = 32, num_channels: int = 1) -> DeviceData:
    """Training images are dark and the others bright: a pixel tells where it comes from."""
    train = split(num_train, seed=1, high=128, num_channels=num_channels)
    validation = split(20, seed=2, low=128, num_channels=num_channels)
    probe = DeviceSplit(train.images[:12], train.labels[:12])
    half = torch.full((1, num_channels, 1, 1), 0.5)
    return DeviceData(train, validation, probe, half, half, num_classes=3)


class Spy(nn.Module):
    """Notes each batch it is shown, and the mode it is in."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.seen: list[tuple[bool, Tensor]] = []

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append((self.training, images.detach().clone()))
        logits: Tensor = self.model(images)
        return logits


def net(rate: float = 0.0) -> nn.Module:
    torch.manual_seed(0)
    layers = (nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), dropout())
    model = nn.Sequential(*layers, nn.Linear(16, 3))
    set_rates(model, recipe(sections={"regularization": {"dropout": rate}}).regularization)
    return model


def trainer(
    how: Recipe,
    model: nn.Module | None = None,
    data: DeviceData | None = None,
    metric: Metric = "validation/accuracy",
    trial: int = 0,
) -> Trainer:
    seeds = TrialSeeds.of(0, trial)
    return Trainer(model or net(), data or random_data(), how, metric, seeds)


def fit(training: Trainer) -> tuple[FitResult, Curves]:
    curves: Curves = []
    result = training.fit(lambda _, metrics: curves.append(dict(metrics)))
    return result, curves


def untimed(curves: Curves) -> Curves:
    return [{k: v for k, v in epoch.items() if not k.endswith("_sec")} for epoch in curves]
