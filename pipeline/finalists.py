"""The champion and the baselines: scored on images that the search never saw, and registered.

The search has chosen by its validation score, which flatters the winner; the selection split has
played no part in that choice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import torch
from optuna.trial import FrozenTrial
from torch import nn

from pipeline.config import RunConfig
from pipeline.datasets import Splits
from pipeline.errors import redact
from pipeline.exported_model import ModelInfo
from pipeline.registry import Registered, register
from pipeline.statistics import paired_difference, wilson_interval
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


def _none() -> npt.NDArray[np.bool_]:
    return np.zeros(0, np.bool_)


@dataclass(frozen=True)
class Finalist:
    """A trial that the summary compares: the champion or a baseline.

    Args:
        alias: its alias in the registry: `champion`, `unregularized` or `recipe`.
        trial: as the study has it.
        correct: (N,) bool, whether it told each selection image right; empty where there is no
            selection split, or it could not be scored.
        registered: its version in the registry.
        problem: why it is not registered, or could not even be scored; empty when all is well.
    """

    alias: str
    trial: FrozenTrial
    correct: npt.NDArray[np.bool_] = field(default_factory=_none, compare=False)
    registered: Registered | None = None
    problem: str = ""

    @property
    def num_correct(self) -> int:
        return int(self.correct.sum())

    @property
    def selection_accuracy(self) -> float | None:
        return float(self.correct.mean()) if len(self.correct) else None

    @property
    def selection_interval(self) -> tuple[float, float] | None:
        """The 95 % Wilson interval of the selection accuracy."""
        return wilson_interval(self.num_correct, len(self.correct)) if len(self.correct) else None

    def gain_over(self, other: Finalist) -> tuple[float, float] | None:
        """By how much its selection accuracy is higher, and half the width of the 95 % interval:
        paired, image by image. None where one of the two was not scored."""
        if not len(self.correct) or not len(other.correct):
            return None
        return paired_difference(self.correct, other.correct)


AWAY = "MLflow does not answer; `regsearch sync` registers it later"


class Registrar:
    """Scores the finalists of a study from the weights that were kept, and registers them.

    Args:
        config: the study's settings, with the precision and the engine that were measured.
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
        that share a study take turns, so that none registers what another just did. An alias that
        points at another study's model is taken over if trials were finished since this study was
        last registered.

        Args:
            mirror: MLflow; None where it is away, and nothing can be registered.
        """
        ledger = self.ledger
        trials = {CHAMPION: next(iter(ledger.ranked_own()), None)} | {
            name: ledger.baseline(name) for name in BASELINES
        }
        self.weights.folder.mkdir(parents=True, exist_ok=True)
        with file_lock(self.weights.folder / "registering.lock"):
            finalists = [
                self._finalist(alias, trial, mirror)
                for alias, trial in reversed(trials.items())
                if trial
            ]
            if mirror is not None:
                ledger.keep("has_news", False)
        return finalists[::-1]

    def _finalist(self, alias: str, trial: FrozenTrial, mirror: Mirror | None) -> Finalist:
        """A finalist as far as it can be had: a study's result is not lost with one model."""
        finalist = Finalist(alias, trial)
        try:
            config = self.config.with_overrides(overrides_of(trial))
            model = build_seeded(config, self.data)
            model.load_state_dict(self.weights.load(trial.number))
            finalist = replace(finalist, correct=self._correct(config, model))
            if mirror is None:
                return replace(finalist, problem=AWAY)
            return replace(finalist, registered=self._register(config, model, finalist, mirror))
        except Exception as error:  # noqa: BLE001 - see above; the summary tells the reason
            reason = redact(f"{type(error).__name__}: {error}").splitlines()[0]
            return replace(finalist, problem=reason)

    def _correct(self, config: RunConfig, model: nn.Module) -> npt.NDArray[np.bool_]:
        if not len(self.selection):
            return _none()
        model.to(self.device).to(memory_format=torch.channels_last)
        dtype = resolve_precision(config.training.precision, self.device)
        logits = predict(model, self.selection.images, self.data.mean, self.data.std, dtype)
        answers = (logits.argmax(dim=1) == self.selection.labels).cpu().numpy()
        return np.asarray(answers, dtype=np.bool_)

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
            take_over=bool(self.ledger.study.user_attrs.get("regsearch.has_news")),
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
