"""The winner and the baselines in MLflow's registry, from the weights that were kept."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from mlflow.exceptions import MlflowException
from torch import nn

from pipeline.champion import Champion
from pipeline.config import RunConfig
from pipeline.datasets import Splits
from pipeline.exported_model import ModelInfo
from pipeline.finalists import Finalist
from pipeline.nets import Nets, NotKeptError, load_nets, nets_of
from pipeline.registry import Registered, aliases, register, retire
from pipeline.scoring import Scorer, reason_of, weights_of
from pipeline.state_file import DamagedFileError
from pipeline.study.baselines import BASELINES
from pipeline.study.followup import FollowUp
from pipeline.study.ledger import Ledger
from pipeline.study.storage import file_lock
from pipeline.study.trials import value_of
from pipeline.tracking import Mirror
from pipeline.training.data import DeviceData, to_device
from pipeline.weights import WeightStore

CHAMPION = "champion"
OFFERED = re.compile(r"trial-\d+")
"""Alias of a finalist that one may prefer to the champion by another metric."""
LOST = "the weights of its training are gone; `regsearch run` with its space file trains it again"
AWAY = "MLflow does not answer; `regsearch sync` registers it later"


@dataclass(frozen=True)
class Registration:
    """What became of a finalist in the registry.

    Args:
        alias: `champion`, `unregularized`, `recipe`, or `trial-7`.
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
        self.scorer = Scorer(config, ledger, data, to_device(splits.selection, data.mean.device))

    def register_all(
        self,
        champion: Champion | None,
        finalists: Sequence[Finalist],
        followup: FollowUp | None,
        mirror: Mirror | None,
        offered: Collection[str] = (),
    ) -> list[Registration]:
        """The champion, those of the finalists that are baselines, and what else is `offered`.

        They are registered the other way round, so that the champion is the latest version. Runs
        that share a study take turns, so that none registers what another just did. An alias that
        points at another study's model is taken over if trials were finished since this study was
        last registered.

        Args:
            champion: None where no trial may win.
            followup: the finalists' trainings; None where they were not trained again.
            mirror: MLflow; None where it is away, and nothing can be registered.
            offered: names of finalists that one may prefer by another metric.
        """
        metric = self.config.study.metric
        entries = {} if champion is None else {CHAMPION: champion.nets}
        others = [f for name in BASELINES for f in finalists if f.baseline == name]
        others += [f for f in finalists if f.name in offered and not f.baseline]
        entries |= {f.alias: nets_of(f, followup, metric) for f in others}
        weights = WeightStore((followup or self.ledger).uuid)
        weights.folder.mkdir(parents=True, exist_ok=True)
        with file_lock(weights.folder / "registering.lock"):
            done = [
                self._registration(alias, nets, self._scores(nets, finalists), mirror)
                for alias, nets in reversed(entries.items())
            ]
            if mirror is not None:
                done += self._retire(entries.keys(), mirror)
                if not any(one.problem for one in done):
                    self.ledger.keep("has_news", False)
        return done[::-1]

    def _retire(self, current: Collection[str], mirror: Mirror) -> list[Registration]:
        """Take aliases off this study's models that are no longer what the alias says: trials that
        are on offer no more, and a champion where nobody may win. What could not be done."""
        name = self.config.registry.model_name
        try:
            found = aliases(mirror.client, name)
            for alias in found:
                if alias not in current and (alias == CHAMPION or OFFERED.fullmatch(alias)):
                    retire(mirror.client, name, alias, mirror.experiment_id)
        except (MlflowException, OSError) as error:
            text = f"it, or an alias of another trial, may be out of date: {reason_of(error)}"
            return [Registration(CHAMPION, "", problem=text)]
        return []

    def _scores(self, nets: Nets, finalists: Sequence[Finalist]) -> dict[str, float]:
        """What was measured of nets, by the metrics' names: of one net the validation score, and
        the selection score of its finalist over all seeds; of several, or a refit, their own."""
        refit = nets.followup is not None and nets.followup.folds_validation
        if refit or len(nets.trials) > 1:
            mean = nets.selection
            return {} if mean is None else {f"selection/{nets.judged}": mean[0]}
        metrics: dict[str, float] = {self.config.study.metric: value_of(nets.trials[0])}
        finalist = next(f for f in finalists if f.name == nets.name)
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
        except (NotKeptError, DamagedFileError) as error:
            if nets.followup is None:
                return Registration(alias, nets.name, problem=reason_of(error))
            kept = WeightStore(nets.followup.uuid)
            for trial in nets.followup.counting():
                if not kept.is_sound(trial.number):
                    nets.followup.set_aside(trial)
            return Registration(alias, nets.name, problem=LOST)
        except Exception as error:  # noqa: BLE001 - see above; the summary tells the reason
            return Registration(alias, nets.name, problem=reason_of(error))
        return Registration(alias, nets.name, registered)

    def _register(
        self, alias: str, nets: Nets, metrics: Mapping[str, float], mirror: Mirror
    ) -> Registered:
        followup, study_run_id = nets.followup, None
        if followup is not None:
            study_run_id = mirror.followup_run_id(followup.uuid, followup.kind)

        def made() -> tuple[nn.Module, ModelInfo]:
            weights = weights_of(nets, self.ledger)
            config, model = load_nets(nets, self.config, self.data, weights)
            return model, self._model_info(config, metrics, len(nets.trials))

        return register(
            mirror.client,
            mirror.trial_run_id(nets.trials[0].number, study_run_id),
            made,
            self.config.registry.model_name,
            alias,
            num_nets=len(nets.trials),
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
