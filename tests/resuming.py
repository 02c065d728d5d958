"""Trainings that are broken off and gone on with, each half in a process of its own.

`main` does an action with every case; see `ACTIONS`.
"""

from __future__ import annotations

import os
import signal
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter

from pipeline.checkpoints import CheckpointStore
from pipeline.models import ModelSettingsUnion, build_model
from pipeline.state_file import save_state
from pipeline.training.data import DeviceData, DeviceSplit
from pipeline.training.loop import FitResult, Trainer
from pipeline.training.metrics import Metric
from tests.trainings import Curves, fit, random_data, recipe, trainer

EPOCHS = 6
KILLED = "everything"
"""The case that is also killed, in the midst of its fourth epoch."""

ADAMW = {"kind": "adamw", "learning_rate": 0.01, "weight_decay": 0.1}
SGD = {"kind": "sgd", "learning_rate": 0.02, "weight_decay": 0.1, "decay_norm_and_bias": True}
FULL_AUGMENTATION = {
    "strength": 1.0,
    "horizontal_flip": "alternating",
    "translation_fraction": 0.1,
    "scale_fraction": 0.2,
    "hue": 0.1,
    "cutout_fraction": 0.3,
    "erasing_probability": 0.5,
    "randaugment_num_ops": 2,
}
ALL_MASKS = {"dropout": 0.3, "spatial_dropout": 0.2, "stochastic_depth": 0.3}
# 16 channels: with fewer, oneDNN overruns its workspace (uxlfoundation/oneDNN issue 6035)
RESNET = {"kind": "resnet", "width": 16, "depth": 1}


def learnable_data(device: str = "cpu") -> DeviceData:
    """Images in colour, whose channels are as bright as their class says, with much noise."""
    parts = []
    for part in (random_data(num_channels=3).train, random_data(num_channels=3).validation):
        signal = 40 * torch.nn.functional.one_hot(part.labels, 3).view(-1, 3, 1, 1)
        parts.append(DeviceSplit((part.images % 128 + signal).to(torch.uint8), part.labels))
    train, validation = (DeviceSplit(p.images.to(device), p.labels.to(device)) for p in parts)
    half = torch.full((1, 3, 1, 1), 0.5, device=device)
    return DeviceData(train, validation, train, half, half, num_classes=3)


@dataclass(frozen=True)
class Case:
    """What is particular about a training: sections of its recipe, its net, its metric."""

    optimizer: Mapping[str, Any] = field(default_factory=lambda: ADAMW)
    regularization: Mapping[str, Any] = field(default_factory=dict)
    augmentation: Mapping[str, Any] = field(default_factory=dict)
    schedule: Mapping[str, Any] = field(default_factory=lambda: {"kind": "cosine"})
    training: Mapping[str, Any] = field(default_factory=dict)
    net: Mapping[str, Any] = field(default_factory=lambda: {"kind": "vgg", "width": 4})
    metric: Metric = "validation/loss"

    def trainer(self) -> Trainer:
        """A training of this case, before its first epoch."""
        sections = {
            "lr_schedule": self.schedule,
            "regularization": self.regularization,
            "augmentation": self.augmentation,
        }
        how = recipe(EPOCHS, optimizer=self.optimizer, sections=sections, **self.training)
        torch.manual_seed(0)
        settings: Any = TypeAdapter(ModelSettingsUnion).validate_python(self.net)
        net = build_model(settings, how.regularization, (3, 8, 8), 3)
        return trainer(how, net, learnable_data(), self.metric)


CASES = {
    "plain": Case(),
    "adam": Case(optimizer={**ADAMW, "kind": "adam", "beta1": 0.8}),
    "sgd with Nesterov momentum": Case(optimizer=SGD),
    "sgd with momentum": Case(optimizer={**SGD, "nesterov": False}),
    "sgd without momentum": Case(optimizer={**SGD, "momentum": 0.0}),
    "average of the weights": Case(regularization={"ema_decay": 0.9}),
    "mixup and cutmix": Case(regularization={"mixup_alpha": 0.4, "cutmix_alpha": 1.0}),
    "dropout of all kinds": Case(regularization=ALL_MASKS, net=RESNET),
    "full augmentation": Case(augmentation=FULL_AUGMENTATION),
    "random flips and crops": Case(augmentation={"strength": 0.5}),
    "plateau": Case(
        schedule={"kind": "plateau", "patience_epochs": 1, "gamma": 0.3, "min_delta": 0.6}
    ),
    "one cycle after a warm-up": Case(schedule={"kind": "one_cycle", "warmup_epochs": 1.5}),
    "penalties and clipped gradients": Case(
        regularization={"l1": 1e-3, "l2": 1e-2}, training={"gradient_clip_norm": 0.5}
    ),
    "early stopping": Case(
        optimizer={**SGD, "momentum": 0.0},
        training={"early_stopping": {"patience": 2, "min_delta": 0.1}},
    ),
    "group norm": Case(net={"kind": "vgg", "width": 4, "norm": "group"}),
    "bfloat16": Case(training={"precision": "bfloat16"}, metric="validation/macro_f1"),
    "everything": Case(
        optimizer=SGD,
        regularization={"ema_decay": 0.8, "mixup_alpha": 0.4, "cutmix_alpha": 1.0} | ALL_MASKS,
        augmentation=FULL_AUGMENTATION,
        schedule={"kind": "plateau", "patience_epochs": 0, "min_delta": 0.2, "warmup_epochs": 2},
        net=RESNET,
    ),
}


def outcome(training: Trainer, result: FitResult, curve: Curves) -> dict[str, Any]:
    """What a training came to: its curve, its best epoch and the weights that it ends with."""
    return {
        "curve": curve,
        "best_epoch": result.best_epoch,
        "metrics": dict(result.metrics),
        "num_epochs": result.num_epochs,
        "weights": training.model.state_dict(),
    }


def store(name: str, folder: Path) -> CheckpointStore:
    """A case's checkpoints: the one of epoch k as trial k, and that of the killed one as 0."""
    return CheckpointStore(name, folder)


def save_all(folder: Path) -> None:
    """Train every case, and save it after each epoch."""
    for name, case in CASES.items():
        training, checkpoints = case.trainer(), store(name, folder)

        def save(epoch: int, _: object, save_at: Any = checkpoints, of: Any = training) -> None:
            save_at.save(epoch, of.state_dict())

        training.fit(save)


def die(folder: Path) -> None:
    """After all that, train one case, saving every epoch as trial 0, and be killed in an update."""
    save_all(folder)
    training = CASES[KILLED].trainer()
    fatal_update = 3 * training.steps_per_epoch + 2

    def kill(*_: object) -> None:
        nonlocal num_updates
        num_updates += 1
        if num_updates == fatal_update:
            os.kill(os.getpid(), signal.SIGKILL)
        update()

    update, num_updates = training.run_step, 0
    training.run_step = kill
    training.fit(lambda *_: store(KILLED, folder).save(0, training.state_dict()))


def stops(num_epochs: int) -> list[int]:
    """The epochs from which a training of so many is gone on with; the last one is its end."""
    return [2, 4, num_epochs]


def go_on(folder: Path) -> None:
    """Go on from checkpoints of every case, and write the outcomes beside them."""
    for name, case in CASES.items():
        checkpoints = store(name, folder)
        saved = checkpoints.trials()
        for number in {*stops(saved[-1]), saved[0]}:
            training = case.trainer()
            torch.rand(number + 1)  # the chance that others had is forgotten
            training.load_state_dict(checkpoints.load(number) or {})
            save_state(outcome_path(name, number, folder), outcome(training, *fit(training)))


def outcome_path(name: str, number: int, folder: Path) -> Path:
    """Where the outcome is that came of a checkpoint."""
    return store(name, folder).path(number).with_suffix(".outcome")


ACTIONS: dict[str, Callable[[Path], None]] = {"die": die, "go_on": go_on}


def main() -> None:
    """The process: a folder and an action."""
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    ACTIONS[sys.argv[2]](Path(sys.argv[1]))
