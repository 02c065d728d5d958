"""The winner and the baselines in MLflow's registry, from the weights that were kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from optuna.trial import FrozenTrial

from pipeline.answers import judged_by
from pipeline.champion import Champion
from pipeline.config import RunConfig
from pipeline.datasets import Splits
from pipeline.errors import redact
from pipeline.exported_model import ModelInfo
from pipeline.finalists import Finalist, Verdict, finalist_name
from pipeline.judging import Judge
from pipeline.nets import Nets, all_nets_of, load_nets, nets_of
from pipeline.registry import Registered, register
from pipeline.study.baselines import BASELINES
from pipeline.study.followup import FollowUp
from pipeline.study.ledger import Ledger
from pipeline.study.storage import file_lock
from pipeline.study.trials import value_of
from pipeline.tracking import Mirror
from pipeline.training.data import DeviceData, to_device
from pipeline.training.precision import resolve_precision
from pipeline.weights import WeightStore

CHAMPION = "champion"
ONE_NET = "an ensemble is made of the finalists' nets; this is one net until they are trained"
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
            nets = self._as_one(Nets(name, (trial,), None, None, judged))
        except Exception as error:  # noqa: BLE001 - a study's result is not lost with one model
            notes.append(f"{name} can't be scored: {_reason(error)}")
            return Finalist(name, trial, (), (), judged)
        return Finalist(name, trial, (), (nets.answers,) if nets.answers else (), judged)

    def champion(self, verdict: Verdict, followup: FollowUp | None) -> Champion:
        """What is to be registered of the winner.

        Args:
            followup: the finalists' trainings, of a verdict on them.
        """
        metric = self.config.study.metric
        best = nets_of(verdict.winner, followup, metric)
        if self.config.finalists.champion == "best":
            return Champion(best)
        if followup is None:
            return Champion(best, notes=(ONE_NET,))
        try:
            together = self._as_one(all_nets_of(verdict.winner, followup, metric))
        except Exception as error:  # noqa: BLE001 - a study's result is not lost with one net
            return Champion(best, notes=(f"there is no ensemble: {_reason(error)}",))
        return Champion(together, together.gain_over(verdict.winner.scores.mean(axis=0)))

    def _as_one(self, nets: Nets) -> Nets:
        """The same nets, with what they say together of the selection images."""
        config, model = load_nets(nets, self.config, self.data, self._weights(nets))
        dtype = resolve_precision(config.training.precision, self.device)
        return replace(nets, answers=self.judge.answers(self.judge.logits(model, dtype)))

    def _weights(self, nets: Nets) -> WeightStore:
        return WeightStore((nets.followup or self.ledger).uuid)

    def register_all(
        self,
        verdict: Verdict,
        champion: Champion,
        followup: FollowUp | None,
        mirror: Mirror | None,
    ) -> list[Registration]:
        """The champion, and the baselines.

        They are registered the other way round, so that the champion is the latest version. Runs
        that share a study take turns, so that none registers what another just did. An alias that
        points at another study's model is taken over if trials were finished since this study was
        last registered.

        Args:
            followup: the finalists' trainings, of a verdict on them.
            mirror: MLflow; None where it is away, and nothing can be registered.
        """
        metric = self.config.study.metric
        found = {name: verdict.baseline(name) for name in BASELINES}
        entries = {CHAMPION: champion.nets}
        entries |= {name: nets_of(f, followup, metric) for name, f in found.items() if f}
        weights = WeightStore((followup or self.ledger).uuid)
        weights.folder.mkdir(parents=True, exist_ok=True)
        with file_lock(weights.folder / "registering.lock"):
            done = [
                self._registration(alias, nets, self._scores(nets, verdict), mirror)
                for alias, nets in reversed(entries.items())
            ]
            if mirror is not None:
                self.ledger.keep("has_news", False)
        if followup is not None:  # all finalists': another may win once there are more trials
            finalists = followup.complete_in([f.name for f in verdict.finalists])
            needed = {t.number for trainings in finalists.values() for t in trainings}
            weights.keep_only(lambda number: number in needed)
        return done[::-1]

    def _scores(self, nets: Nets, verdict: Verdict) -> dict[str, float]:
        """What was measured of nets, by the metrics' names: of one net the validation score, and
        the selection score of its finalist over all seeds; of several their own."""
        if len(nets.trials) > 1:
            mean = nets.selection
            return {} if mean is None else {f"selection/{nets.judged}": mean[0]}
        metrics: dict[str, float] = {self.config.study.metric: value_of(nets.trials[0])}
        finalist = next(f for f in verdict.finalists if f.name == nets.name)
        if finalist.selection is not None:
            metrics[f"selection/{nets.judged}"] = finalist.selection[0]
        return metrics

    def _registration(
        self, alias: str, nets: Nets, metrics: Mapping[str, float], mirror: Mirror | None
    ) -> Registration:
        """As far as it can be had: a study's result is not lost with one model."""
        if mirror is None:
            return Registration(alias, nets.name, problem=AWAY)
        try:
            registered = self._register(alias, nets, metrics, mirror)
        except Exception as error:  # noqa: BLE001 - see above; the summary tells the reason
            return Registration(alias, nets.name, problem=_reason(error))
        return Registration(alias, nets.name, registered)

    def _register(
        self, alias: str, nets: Nets, metrics: Mapping[str, float], mirror: Mirror
    ) -> Registered:
        followup, study_run_id = nets.followup, None
        if followup is not None:
            study_run_id = mirror.followup_run_id(followup.uuid, followup.kind)
        config, model = load_nets(nets, self.config, self.data, self._weights(nets))
        return register(
            mirror.client,
            mirror.trial_run_id(nets.trials[0].number, study_run_id),
            model,
            self._model_info(config, metrics, len(nets.trials)),
            config.registry.model_name,
            alias,
            take_over=bool(self.ledger.study.user_attrs.get("regsearch.has_news")),
        )

    def _model_info(
        self, config: RunConfig, metrics: Mapping[str, float], num_nets: int
    ) -> ModelInfo:
        return ModelInfo(
            class_names=tuple(self.splits.class_names),
            image_shape=self.splits.image_shape,
            mean=tuple(self.splits.channel_mean.tolist()),
            std=tuple(self.splits.channel_std.tolist()),
            metrics=dict(metrics),
            data=config.data.model_dump(mode="json"),
            data_digest=self.splits.digest,
            seed=config.study.seed,
            num_nets=num_nets,
        )


def _reason(error: Exception) -> str:
    return redact(f"{type(error).__name__}: {error}").splitlines()[0]
