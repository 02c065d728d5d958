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
from pipeline.study.ledger import Ledger, overrides_of, value_of
from pipeline.study.storage import file_lock
from pipeline.tracking import Mirror
from pipeline.training.data import DeviceData, to_device
from pipeline.training.loop import predict
from pipeline.training.precision import resolve_precision
from pipeline.trial import build_seeded
from pipeline.weights import WeightStore

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


AWAY = "MLflow does not answer; `regsearch sync` registers it later"


class Registrar:
    """Scores the finalists of a study from the weights that were kept, and registers them.

    Args:
        config: the study's settings, with the precision that was measured.
        data, splits: the images, on the device and as they were split.
    """

    def __init__(
        self,
        config: RunConfig,
        ledger: Ledger,
        weights: WeightStore,
        data: DeviceData,
        splits: Splits,
    ) -> None:
        self.config, self.ledger, self.weights = config, ledger, weights
        self.data, self.splits = data, splits
        self.device = data.mean.device
        self.selection = to_device(splits.selection, self.device)

    def register_all(self, mirror: Mirror | None) -> list[Finalist]:
        """The champion first, then the baselines, as far as they are complete.

        They are registered the other way round, so that the champion is the latest version. Runs
        that share a study take turns, so that none registers what another just did.

        Args:
            mirror: MLflow; None where it is away, and nothing can be registered.
        """
        ledger = self.ledger
        trials = {CHAMPION: ledger.best()} | {name: ledger.baseline(name) for name in BASELINES}
        self.weights.folder.mkdir(parents=True, exist_ok=True)
        with file_lock(self.weights.folder / "registering.lock"):
            finalists = [
                self._finalist(alias, trial, mirror)
                for alias, trial in reversed(trials.items())
                if trial
            ]
        return finalists[::-1]

    def _finalist(self, alias: str, trial: FrozenTrial, mirror: Mirror | None) -> Finalist:
        """A finalist as far as it can be had: a study's result is not lost with one model."""
        finalist = Finalist(alias, trial)
        try:
            config = self.config.with_overrides(overrides_of(trial))
            model = build_seeded(config, self.data)
            model.load_state_dict(self.weights.load(trial.number))
            num_correct = self._num_correct(config, model)
            finalist = replace(finalist, num_correct=num_correct, num_selection=len(self.selection))
            if mirror is None:
                return replace(finalist, problem=AWAY)
            return replace(finalist, registered=self._register(config, model, finalist, mirror))
        except Exception as error:  # noqa: BLE001 - see above; the summary tells the reason
            reason = redact(f"{type(error).__name__}: {error}").splitlines()[0]
            return replace(finalist, problem=reason)

    def _num_correct(self, config: RunConfig, model: nn.Module) -> int:
        if not len(self.selection):
            return 0
        model.to(self.device).to(memory_format=torch.channels_last)
        dtype = resolve_precision(config.training.precision, self.device)
        logits = predict(model, self.selection.images, self.data.mean, self.data.std, dtype)
        return int((logits.argmax(dim=1) == self.selection.labels).sum())

    def _register(
        self, config: RunConfig, model: nn.Module, finalist: Finalist, mirror: Mirror
    ) -> Registered:
        metrics: dict[str, float] = {config.study.metric: value_of(finalist.trial)}
        if finalist.selection_accuracy is not None:
            metrics["selection/accuracy"] = finalist.selection_accuracy
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
