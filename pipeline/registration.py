"""The winner and the baselines in MLflow's registry, from the weights that were kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from optuna.trial import FrozenTrial
from torch import nn

from pipeline.answers import judged_by
from pipeline.config import RunConfig
from pipeline.datasets import Splits
from pipeline.errors import redact
from pipeline.exported_model import ModelInfo
from pipeline.finalists import Finalist, Verdict, best_training, finalist_name
from pipeline.judging import Judge
from pipeline.registry import Registered, register
from pipeline.study.baselines import BASELINES
from pipeline.study.followup import FollowUp
from pipeline.study.ledger import Ledger
from pipeline.study.storage import file_lock
from pipeline.study.trials import overrides_of, value_of
from pipeline.tracking import Mirror
from pipeline.trainers import build_seeded
from pipeline.training.data import DeviceData, to_device
from pipeline.training.precision import resolve_precision
from pipeline.weights import WeightStore

CHAMPION = "champion"
AWAY = "MLflow does not answer; `regsearch sync` registers it later"


@dataclass(frozen=True)
class Registration:
    """What became of a finalist in the registry.

    Args:
        alias: `champion`, `unregularized` or `recipe`.
        name: the finalist's.
        problem: why it is not registered; empty when all is well.
    """

    alias: str
    name: str
    registered: Registered | None = None
    problem: str = ""


class Registrar:
    """Registers finalists of a study.

    Args:
        config: the study's settings, with the precision and the engine that were measured.
        data, splits: the images, on the device and as they were split.
    """

    def __init__(self, config: RunConfig, ledger: Ledger, data: DeviceData, splits: Splits) -> None:
        self.config, self.ledger, self.data, self.splits = config, ledger, data, splits
        self.device = data.mean.device
        selection = to_device(splits.selection, self.device)
        self.judge = Judge(selection, data, judged_by(config.study.metric))

    def of_the_search(self) -> Verdict | None:
        """The champion of the search and the baselines, scored from the weights that it kept: what
        there is without finalists. None while no trial is complete."""
        best = next(iter(self.ledger.ranked_own()), None)
        if best is None:
            return None
        baselines = [trial for name in BASELINES if (trial := self.ledger.baseline(name))]
        others = [trial for trial in baselines if trial.number != best.number]
        notes: list[str] = []
        found = tuple(self._scored(trial, notes) for trial in (best, *others))
        return Verdict(found, self.judge.judged, False, tuple(notes))

    def _scored(self, trial: FrozenTrial, notes: list[str]) -> Finalist:
        """With one net, the search's; without its answers where its weights can't be had."""
        name, judged = finalist_name(trial), self.judge.judged
        if not len(self.judge.selection):
            return Finalist(name, trial, (), (), judged)
        try:
            config, model = self._net(trial, WeightStore(self.ledger.uuid))
        except Exception as error:  # noqa: BLE001 - a study's result is not lost with one model
            notes.append(f"{name} can't be scored: {_reason(error)}")
            return Finalist(name, trial, (), (), judged)
        dtype = resolve_precision(config.training.precision, self.device)
        answers = self.judge.answers(self.judge.logits(model, dtype))
        return Finalist(name, trial, (), (answers,), judged)

    def register_all(
        self, verdict: Verdict, followup: FollowUp | None, mirror: Mirror | None
    ) -> list[Registration]:
        """The winner as champion, and the baselines.

        They are registered the other way round, so that the champion is the latest version. Runs
        that share a study take turns, so that none registers what another just did. An alias that
        points at another study's model is taken over if trials were finished since this study was
        last registered.

        Args:
            followup: the finalists' trainings, of a verdict on them.
            mirror: MLflow; None where it is away, and nothing can be registered.
        """
        weights = WeightStore((followup or self.ledger).uuid)
        weights.folder.mkdir(parents=True, exist_ok=True)
        baselines = {name: verdict.baseline(name) for name in BASELINES}
        entries = {CHAMPION: verdict.winner} | {n: f for n, f in baselines.items() if f}
        with file_lock(weights.folder / "registering.lock"):
            done = [
                self._registration(alias, finalist, weights, followup, mirror)
                for alias, finalist in reversed(entries.items())
            ]
            if mirror is not None:
                self.ledger.keep("has_news", False)
        if followup is not None:  # all finalists': another may win once there are more trials
            finalists = followup.complete_in([f.name for f in verdict.finalists])
            needed = {t.number for trainings in finalists.values() for t in trainings}
            weights.keep_only(lambda number: number in needed)
        return done[::-1]

    def _registration(
        self,
        alias: str,
        finalist: Finalist,
        weights: WeightStore,
        followup: FollowUp | None,
        mirror: Mirror | None,
    ) -> Registration:
        """As far as it can be had: a study's result is not lost with one model."""
        if mirror is None:
            return Registration(alias, finalist.name, problem=AWAY)
        try:
            registered = self._register(alias, finalist, weights, followup, mirror)
        except Exception as error:  # noqa: BLE001 - see above; the summary tells the reason
            return Registration(alias, finalist.name, problem=_reason(error))
        return Registration(alias, finalist.name, registered)

    def _register(
        self,
        alias: str,
        finalist: Finalist,
        weights: WeightStore,
        followup: FollowUp | None,
        mirror: Mirror,
    ) -> Registered:
        metric: str = self.config.study.metric
        trial, study_run_id = finalist.trial, None
        if followup is not None:
            trial = best_training(finalist, metric)
            study_run_id = mirror.followup_run_id(followup.uuid, followup.kind)
        config, model = self._net(trial, weights)
        metrics = {metric: value_of(trial)}
        if finalist.selection is not None:
            metrics[f"selection/{finalist.judged}"] = finalist.selection[0]
        return register(
            mirror.client,
            mirror.trial_run_id(trial.number, study_run_id),
            model,
            self._model_info(config, metrics),
            config.registry.model_name,
            alias,
            take_over=bool(self.ledger.study.user_attrs.get("regsearch.has_news")),
        )

    def _net(self, trial: FrozenTrial, weights: WeightStore) -> tuple[RunConfig, nn.Module]:
        config = self.config.with_overrides(overrides_of(trial))
        model = build_seeded(config, self.data)
        model.load_state_dict(weights.load(trial.number))
        return config, model

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


def _reason(error: Exception) -> str:
    return redact(f"{type(error).__name__}: {error}").splitlines()[0]
