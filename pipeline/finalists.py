"""The champion and the baselines: scored on images that the search never saw, and registered.

The search has chosen by its validation score, which flatters the winner; the selection split has
played no part in that choice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from optuna.trial import FrozenTrial
from torch import nn

from pipeline.config import RunConfig
from pipeline.datasets import Splits
from pipeline.errors import redact
from pipeline.exported_model import ModelInfo
from pipeline.registry import Registered, register
from pipeline.statistics import wilson_interval
from pipeline.study.baselines import BASELINES
from pipeline.study.ledger import overrides_of, value_of
from pipeline.training.data import to_device
from pipeline.training.loop import predict
from pipeline.training.precision import resolve_precision
from pipeline.trial import TrialRunner

CHAMPION = "champion"


@dataclass(frozen=True)
class Finalist:
    """A trial that the summary compares: the champion or a baseline.

    Args:
        alias: its alias in the registry: `champion`, `unregularized` or `recipe`.
        trial: as the study has it.
        num_correct: how many of the `num_selection` selection images it classified correctly;
            0 of 0 where there is no selection split.
        registered: its version in the registry.
        problem: why it is not registered, or could not even be scored; empty when all is well.
    """

    alias: str
    trial: FrozenTrial
    num_correct: int = 0
    num_selection: int = 0
    registered: Registered | None = None
    problem: str = ""

    @property
    def selection_accuracy(self) -> float | None:
        return self.num_correct / self.num_selection if self.num_selection else None

    @property
    def selection_interval(self) -> tuple[float, float] | None:
        """The 95 % Wilson interval of the selection accuracy."""
        return wilson_interval(self.num_correct, self.num_selection) if self.num_selection else None


class Registrar:
    """Scores the finalists of a study from the weights that were kept, and registers them."""

    def __init__(self, runner: TrialRunner, splits: Splits) -> None:
        self.runner, self.splits = runner, splits
        self.device = runner.data.mean.device
        self.selection = to_device(splits.selection, self.device)

    def register_all(self) -> list[Finalist]:
        """The champion first, then the baselines, as far as they are complete.

        They are registered the other way round, so that the champion is the latest version.
        """
        ledger = self.runner.ledger
        trials = {CHAMPION: ledger.best()} | {name: ledger.baseline(name) for name in BASELINES}
        finalists = [self._finalist(a, trial) for a, trial in reversed(trials.items()) if trial]
        return finalists[::-1]

    def _finalist(self, alias: str, trial: FrozenTrial) -> Finalist:
        """A finalist as far as it can be had: a study's result is not lost with one model."""
        finalist = Finalist(alias, trial)
        try:
            config = self.runner.config.with_overrides(overrides_of(trial))
            model = self.runner.build(config)
            model.load_state_dict(self.runner.weights.load(trial.number))
            num_correct = self._num_correct(config, model)
            finalist = replace(finalist, num_correct=num_correct, num_selection=len(self.selection))
            return replace(finalist, registered=self._register(config, model, finalist))
        except Exception as error:  # noqa: BLE001 - see above; the summary tells the reason
            reason = redact(f"{type(error).__name__}: {error}").splitlines()[0]
            return replace(finalist, problem=reason)

    def _num_correct(self, config: RunConfig, model: nn.Module) -> int:
        if not len(self.selection):
            return 0
        model.to(self.device).to(memory_format=torch.channels_last)
        dtype = resolve_precision(config.training.precision, self.device)
        data = self.runner.data
        logits = predict(model, self.selection.images, data.mean, data.std, dtype)
        return int((logits.argmax(dim=1) == self.selection.labels).sum())

    def _register(self, config: RunConfig, model: nn.Module, finalist: Finalist) -> Registered:
        metrics: dict[str, float] = {config.study.metric: value_of(finalist.trial)}
        if finalist.selection_accuracy is not None:
            metrics["selection/accuracy"] = finalist.selection_accuracy
        mirror = self.runner.mirror
        return register(
            mirror.client,
            mirror.trial_run_id(finalist.trial.number),
            model,
            self._model_info(config, metrics),
            config.registry.model_name,
            finalist.alias,
        )

    def _model_info(self, config: RunConfig, metrics: Mapping[str, float]) -> ModelInfo:
        return ModelInfo(
            class_names=tuple(self.splits.class_names),
            image_shape=self.splits.image_shape,
            mean=tuple(self.splits.channel_mean.tolist()),
            std=tuple(self.splits.channel_std.tolist()),
            metrics=dict(metrics),
            data=config.data.model_dump(mode="json"),
            data_digest=self.splits.digest,
            seed=config.study.seed,
        )
