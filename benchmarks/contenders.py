"""Three ways to train the same net: regsearch's, the tutorials', and a tuned DataLoader's.

A contender is a generator of epochs: it is built, and each `next` trains one epoch and gives its
seconds and, where asked for, the validation accuracy after it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from benchmarks.cases import LEARNING_RATE, Case
from pipeline.calibration import Precision, calibrate
from pipeline.datasets import ImageSet, Splits
from pipeline.models import build_model
from pipeline.regularizers import RegularizationSettings
from pipeline.seeding import TrialSeeds
from pipeline.training.data import DeviceData
from pipeline.training.loop import Trainer
from pipeline.training.recipe import Recipe

Epochs = Iterator[tuple[float, float]]
"""(seconds of the training, validation accuracy) of each epoch."""
MANY_EPOCHS = 1_000
"""Of a timed training, which is cut off: the learning rate stays what it is."""


def ours(case: Case, splits: Splits, seed: int, num_epochs: int = MANY_EPOCHS) -> Epochs:
    """The trainer that trials use, with threads and precision as a study chooses them."""
    data = DeviceData.from_splits(splits, torch.device("cpu"), seed)

    def trainer(precision: Precision) -> Trainer:
        recipe = Recipe.model_validate(
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
        return Trainer(net(case, splits, seed), data, recipe, METRIC, TrialSeeds.of(seed, 0))

    calibration = calibrate(trainer)
    torch.set_num_threads(calibration.threads)
    fit = Stepwise(trainer(calibration.precision))
    while True:
        metrics = fit.epoch()
        yield metrics["epoch_sec"], metrics[METRIC]
