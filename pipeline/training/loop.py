"""Training of one network: epochs of steps, scored on the validation images, best weights kept."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.lr_schedules import build_schedule
from pipeline.seeding import TrialSeeds
from pipeline.training.data import DeviceData, DeviceSplit
from pipeline.training.early_stopping import EarlyStopping, LastEpoch
from pipeline.training.engine import Run
from pipeline.training.metrics import SCORES, Metric, classification_scores
from pipeline.training.precision import resolve_precision
from pipeline.training.prediction import predict
from pipeline.training.recipe import Recipe
from pipeline.training.resuming import (
    default_streams,
    identity,
    require_same,
    set_default_streams,
)
from pipeline.training.step import TrainStep
from pipeline.training.stopwatch import Stopwatch
from pipeline.training.structure import Structure

AHEAD_SEC = 0.02
"""What a GPU has to do while an epoch is reported. Longer is safe, and wastes more of it on trials
that are pruned."""

Report = Callable[[int, Mapping[str, float]], None]
"""Called with each epoch (from 1) and its metrics. What it raises ends the training, whose
`state_dict` it may take unless the next epoch has begun (see `Trainer.fit`)."""


class NonFiniteLossError(ArithmeticError):
    """The loss, the penalty or a score became NaN or infinite."""


@dataclass(frozen=True)
class FitResult:
    """How a training ended: the best epoch with its metrics, and how many epochs were run."""

    best_epoch: int
    metrics: Mapping[str, float]
    num_epochs: int
    num_epochs_allowed: int

    @property
    def stopped_early(self) -> bool:
        return self.num_epochs < self.num_epochs_allowed


class Trainer:
    """One training from first weights to best weights.

    Args:
        model: maps normalised images (N, C, H, W) to logits (N, K), with the first weights.
        data: the images, on the device.
        recipe: how to train.
        metric: which metric says what is best.
        seeds: the trial's streams of chance. The device's default generator is reseeded for
            dropout, so one process trains one network at a time.
        shared: the step that this training shares with others, with the first weights (see
            `Steps.get`); without it, it has one for itself, which is run op by op.
        last_epoch: end after this one, on the schedule of all epochs.

    Without validation images nothing is stopped early, the last weights count as the best, and a
    `plateau` schedule goes by the training loss.

    Attributes:
        model: the net that is trained: the step's own, or the one that was given. It holds the best
            weights in eval mode when `fit` returns, until the next training of the step.
        epoch: the present epoch, from 1; 0 before the first.
        num_ahead: how many of its updates were launched while the one before it was reported.
    """

    def __init__(
        self,
        model: nn.Module,
        data: DeviceData,
        recipe: Recipe,
        metric: Metric,
        seeds: TrialSeeds,
        shared: tuple[TrainStep, Run] | None = None,
        last_epoch: int | None = None,
    ) -> None:
        self.data, self.recipe = data, recipe
        self.last_epoch = recipe.training.epochs if last_epoch is None else last_epoch
        self.device = data.mean.device
        self.dtype = resolve_precision(recipe.training.precision, self.device)
        self.step, self.run_step = shared or own_step(model, data, recipe, self.dtype)
        self.model = self.step.model
        self.batch_size, self.steps_per_epoch = self.step.batch_size, self.step.num_batches
        self.schedule = build_schedule(
            recipe.lr_schedule, recipe.training.epochs, self.steps_per_epoch
        )
        stopping = EarlyStopping if len(data.validation) else LastEpoch
        self.early_stopping = stopping(recipe.training.early_stopping, metric)
        self.order_stream = torch.Generator().manual_seed(seeds.order)
        self.step.begin(recipe, seeds)
        torch.manual_seed(seeds.dropout)
        self.epoch = 0
        self.num_ahead = 0

    def fit(self, report: Report, goes_ahead: Callable[[], bool] = lambda: False) -> FitResult:
        """Train to the last epoch or until patience runs out.

        After `load_state_dict` this goes on with the next epoch; if there is none, nothing is
        reported and the best weights are put back.

        Args:
            goes_ahead: asked before each report, whether the next epoch's first updates may be
                launched by then. They give a GPU work for `AHEAD_SEC`, while the host reports; a
                report that ends the training wastes them. Such a report has no `state_dict`.

        Raises:
            NonFiniteLossError: as soon as an epoch gives a number that is not finite.
            Exception: whatever `report` raises.
        """
        while self.num_ahead or self._goes_on():
            if not self.num_ahead:
                self._start_epoch()
            sums = self._train_epoch()
            with self.step.averaged():
                scores = self._scores()
                metrics = self._named(sums, scores)
                require_finite(metrics, self.epoch)
                self.early_stopping.observe(self.epoch, metrics, self.model)
            self.schedule.observe(metrics.get("validation/loss", metrics["train/loss"]))
            epoch = self.epoch
            if goes_ahead() and self._goes_on():
                self._go_ahead(AHEAD_SEC / metrics["epoch_sec"])
            report(epoch, metrics)
        self.early_stopping.restore(self.model)
        self.model.eval()
        best = self.early_stopping
        return FitResult(best.best_epoch, best.best_metrics, self.epoch, self.last_epoch)

    def state_dict(self) -> dict[str, Any]:
        """Everything that the rest of the training depends on, for use in `report`.

        Tensors are not copied, and the next update changes them: save it at once.

        Raises:
            RuntimeError: the next epoch has begun (see `fit`).
        """
        if self.num_ahead:
            raise RuntimeError(f"{self.num_ahead} updates of epoch {self.epoch} are under way")
        return {
            "identity": self._identity(),
            "epoch": self.epoch,
            "model": self.model.state_dict(),
            "step": self.step.state_dict(),
            "schedule": self.schedule.state_dict(),
            "early_stopping": self.early_stopping.state_dict(),
            "order_stream": self.order_stream.get_state(),
            "default_streams": default_streams(self.device),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state, its tensors included, and the device's default generator: `fit` next.

        Raises:
            OtherTrainingError: it is of another net, recipe, device type or number of images;
                nothing has changed.
        """
        require_same(state.get("identity", {}), self._identity())
        self.epoch, self.num_ahead = state["epoch"], 0
        self.model.load_state_dict(state["model"])
        self.step.load_state_dict(state["step"])
        self.schedule.load_state_dict(state["schedule"])
        self.early_stopping.load_state_dict(state["early_stopping"])
        self.order_stream.set_state(state["order_stream"])
        set_default_streams(state["default_streams"], self.device)

    def _identity(self) -> dict[str, str]:
        return identity(self.model, self.data, self.recipe, self.step.structure)

    def begin_epoch(self) -> float:
        """Lay out the present epoch for the step; the learning rate of its last update."""
        order = torch.randperm(len(self.data.train), generator=self.order_stream)
        order = order[: self.steps_per_epoch * self.batch_size]
        first = (self.epoch - 1) * self.steps_per_epoch
        rates = self.recipe.training.optimizer.learning_rate * self.schedule.multipliers(
            first, self.steps_per_epoch
        )
        table = torch.from_numpy(rates.astype(np.float32))
        self.step.begin_epoch(self.epoch, order.view(-1, self.batch_size), table)
        return float(rates[-1])

    def _goes_on(self) -> bool:
        """Whether there is an epoch after the present one."""
        return self.epoch < self.last_epoch and not self.early_stopping.should_stop(self.epoch)

    def _start_epoch(self, num_updates: int = 0) -> None:
        """Begin the next epoch, with its first so many updates."""
        self.epoch += 1
        self._watch = Stopwatch(self.device)
        with self._watch:
            self.model.train()
            self._learning_rate = self.begin_epoch()
            for _ in range(num_updates):
                self.run_step()

    def _go_ahead(self, share: float) -> None:
        """Launch this share of the next epoch's updates, one at least."""
        self.num_ahead = min(math.ceil(share * self.steps_per_epoch), self.steps_per_epoch)
        self._start_epoch(self.num_ahead)

    def _train_epoch(self) -> Tensor:
        """What is left of the epoch: its sums (4,), still on the device."""
        with self._watch:
            for _ in range(self.num_ahead, self.steps_per_epoch):
                self.run_step()
        self.num_ahead = 0
        return self.step.sums

    def _scores(self) -> Tensor:
        """Scores of the validation images, where there are any, and of the clean probe of the
        training images, on the device: each the length of `SCORES`."""
        parts = [part for part in (self.data.validation, self.data.probe) if len(part)]
        return torch.cat([self._scores_of(part) for part in parts])

    def _scores_of(self, split: DeviceSplit) -> Tensor:
        logits = predict(self.model, split.images, self.data.mean, self.data.std, self.dtype)
        return classification_scores(logits, split.labels)

    def _named(self, sums: Tensor, scores: Tensor) -> dict[str, float]:
        """The epoch's metrics by name: the one copy to the host."""
        loss, penalty, accuracy, norm, *values = torch.cat(
            [sums.double() / self.steps_per_epoch, scores]
        ).tolist()
        clean_accuracy = values[SCORES.index("accuracy") - len(SCORES)]
        validation = values[: -len(SCORES)]
        named = dict(zip(SCORES, validation, strict=True)) if validation else {}
        gap = {"generalization_gap": clean_accuracy - named["accuracy"]} if named else {}
        seconds = self._watch.seconds
        return {
            "train/loss": loss,
            "train/penalty": penalty,
            "train/accuracy": accuracy,
            "gradient_norm": norm,
            "learning_rate": self._learning_rate,
            "epoch_sec": seconds,
            "images_per_sec": self.steps_per_epoch * self.batch_size / seconds,
            **{f"validation/{name}": value for name, value in named.items()},
            "train/clean_accuracy": clean_accuracy,
            **gap,
        }


def own_step(
    model: nn.Module, data: DeviceData, recipe: Recipe, dtype: torch.dtype
) -> tuple[TrainStep, Run]:
    """A step for one training alone, run op by op, on the model itself."""
    step = TrainStep(model, data, recipe, Structure.of(recipe), dtype)
    return step, step


def require_finite(metrics: Mapping[str, float], epoch: int) -> None:
    """Raise `NonFiniteLossError` for the first metric that is NaN or infinite."""
    for name, value in metrics.items():
        if not math.isfinite(value):
            raise NonFiniteLossError(f"{name} is {value} in epoch {epoch}")
