"""The study's books: its spec, its budget, its baselines, who has claimed which trial.

Optuna's store is the authority; nothing is counted anywhere else.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from pipeline.config.run_config import RunConfig
from pipeline.seeding import stream_seed
from pipeline.settings import Scalar
from pipeline.study.baselines import BASELINES, Baseline, baselines
from pipeline.study.owner import has_died, this_process
from pipeline.study.pruners import build_pruner
from pipeline.study.samplers import QmcSettings, build_sampler
from pipeline.study.spec import require_same_data, require_same_spec, spec
from pipeline.training.metrics import direction, is_better

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
"""The states that count towards `study.trials`. A failed trial is made up for by another."""

BASELINE, OVERRIDES, LINEAGE, OWNER, REASON = (
    f"regsearch.{name}" for name in ("baseline", "overrides", "lineage", "owner", "reason")
)


@dataclass(frozen=True)
class Claim:
    """A trial that this process has taken.

    Args:
        trial: Optuna's handle on it.
        overrides: what it changes in the file's settings.
        params: what it has for every searched setting, changed or not.
        baseline: which baseline it is, if it is one.
    """

    trial: optuna.Trial
    overrides: Mapping[str, Scalar]
    params: Mapping[str, Scalar | None]
    baseline: Baseline | None

    @property
    def number(self) -> int:
        return self.trial.number

    @property
    def lineage(self) -> int:
        """The number of the first attempt, which the seeds follow: a retry draws as it did."""
        return int(self.trial.user_attrs.get(LINEAGE, self.number))

    @property
    def name(self) -> str:
        """`trial 7`, or `trial 0 (unregularized)`."""
        return f"trial {self.number}" + (f" ({self.baseline})" if self.baseline else "")

    def report(self, epoch: int, value: float) -> bool:
        """Record an epoch's value of the metric; whether the pruner wants the trial to stop.

        Baselines are never pruned: the gain over them is what the study is about.
        """
        self.trial.report(value, epoch)
        return self.baseline is None and self.trial.should_prune()


class Ledger:
    """One study on its store.

    Args:
        config: the settings of the study.
        storage: the opened store.

    Raises:
        UserError: when the store has a study of this name with other settings.
    """

    def __init__(self, config: RunConfig, storage: BaseStorage) -> None:
        self.config, self.space = config, config.space
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.study = optuna.create_study(
            study_name=config.study.name,
            storage=storage,
            load_if_exists=True,
            direction=direction(config.study.metric),
            pruner=build_pruner(config.study.pruner, config.training.epochs),
        )
        self.uuid = str(self.fixed("uuid", lambda: str(uuid.uuid4())))
        require_same_spec(self.fixed("spec", lambda: spec(config)), spec(config), config.study.name)
        self._queue_baselines()

    def _queue_baselines(self) -> None:
        """Queue each baseline that is neither there nor on its way: at first, or when it failed."""
        attempts = {name: self._attempts(name) for name in BASELINES}
        for name, overrides in baselines(self.config).items():
            if any(trial.state != TrialState.FAIL for trial in attempts[name]):
                continue
            attrs: dict[str, Any] = {BASELINE: name, OVERRIDES: overrides}
            if attempts[name]:
                attrs[LINEAGE] = attempts[name][0].number
            values = self.config.values() | overrides
            self.study.enqueue_trial(self.space.nearest(values), user_attrs=attrs)

    def _attempts(self, name: Baseline) -> list[FrozenTrial]:
        return [t for t in self.trials() if t.user_attrs.get(BASELINE) == name]

    def require_same_data(self, digest: str) -> None:
        """Note the images' digest at the first start, and insist on it ever after."""
        known = self.fixed("data_digest", lambda: digest)
        require_same_data(known, digest, self.config.study.name)

    def fixed(self, name: str, measure: Callable[[], Any]) -> Any:
        """A value that the study takes at its first start and keeps; JSON."""
        key = f"regsearch.{name}"
        if key not in self.study.user_attrs:
            self.study.set_user_attr(key, measure())
        return self.study.user_attrs[key]

    def trials(self, *states: TrialState) -> list[FrozenTrial]:
        """All trials in these states (in any, if none is named)."""
        return self.study.get_trials(deepcopy=False, states=states or None)

    def num_finished(self) -> int:
        return len(self.trials(*FINISHED))

    def requeue_dead(self) -> list[int]:
        """Fail the trials whose process on this machine has died, and queue each once more."""
        running = [t for t in self.trials(TrialState.RUNNING) if OWNER in t.user_attrs]
        dead = [trial for trial in running if has_died(trial.user_attrs[OWNER])]
        for trial in dead:
            self._requeue(trial, "its process died")
        return [trial.number for trial in dead]

    def claim(self) -> Claim | None:
        """Take the next trial; None when `study.trials` are finished."""
        if self.num_finished() >= self.config.study.trials:
            return None
        self.study.sampler = self._sampler()
        trial = self.study.ask()
        trial.set_user_attr(OWNER, this_process())
        sample = self.space.sample(trial)
        baseline = trial.user_attrs.get(BASELINE)
        if baseline is None:
            return Claim(trial, sample, sample, None)
        overrides = trial.user_attrs[OVERRIDES]
        values = self.config.values() | overrides
        params = {path: values[path] for path in sample} | overrides
        return Claim(trial, overrides, params, baseline)

    def _sampler(self) -> optuna.samplers.BaseSampler:
        """A sampler whose stream goes on where it was, however often the study is restarted.

        A quasi-random sequence keeps its one seed: its place in the sequence is in the store.
        """
        settings, seed = self.config.study.sampler, self.config.study.seed
        seed = seed if settings.seed is None else settings.seed
        number = None if isinstance(settings, QmcSettings) else len(self.trials())
        return build_sampler(settings, stream_seed(seed, "sampler", number) % 2**32)

    def complete(self, claim: Claim, value: float) -> None:
        self.study.tell(claim.trial, value)

    def prune(self, claim: Claim) -> None:
        self.study.tell(claim.trial, state=TrialState.PRUNED)

    def fail(self, claim: Claim, reason: str) -> None:
        claim.trial.set_user_attr(REASON, reason)
        self.study.tell(claim.trial, state=TrialState.FAIL)

    def give_back(self, claim: Claim, reason: str) -> None:
        """Fail a trial through no fault of its own, and queue it once more."""
        self._requeue(self.study.trials[claim.number], reason)

    def _requeue(self, trial: FrozenTrial, reason: str) -> None:
        """Queue first, so that a kill between the two writes loses nothing."""
        kept = {LINEAGE: trial.number} | {
            key: value
            for key, value in trial.user_attrs.items()
            if key in (BASELINE, OVERRIDES, LINEAGE)
        }
        self.study.enqueue_trial(trial.params, user_attrs=kept)
        self.study._storage.set_trial_user_attr(trial._trial_id, REASON, reason)
        self.study.tell(trial.number, state=TrialState.FAIL)

    def best(self) -> FrozenTrial | None:
        """The complete trial with the best value; None while there is none."""
        best = max if direction(self.config.study.metric) == "maximize" else min
        return best(self.trials(TrialState.COMPLETE), key=value_of, default=None)

    def would_be_best(self, value: float) -> bool:
        """Whether a complete trial with this value would be the best so far."""
        best = self.best()
        return best is None or is_better(self.config.study.metric, value, value_of(best))

    def trials_to_keep(self) -> list[int]:
        """The numbers of the trials whose weights are needed: the best and the baselines."""
        kept = [self.best(), *map(self.baseline, BASELINES)]
        return [trial.number for trial in kept if trial is not None]

    def baseline(self, name: Baseline) -> FrozenTrial | None:
        """The complete trial of a baseline; None before it is there."""
        complete = (t for t in self._attempts(name) if t.state == TrialState.COMPLETE)
        return next(complete, None)


def value_of(trial: FrozenTrial) -> float:
    """The metric's value of a complete trial."""
    if trial.value is None:
        raise ValueError(f"trial {trial.number} is {trial.state.name} and has no value")
    return trial.value


def overrides_of(trial: FrozenTrial) -> dict[str, Scalar]:
    """What a trial changed in the file's settings."""
    given: dict[str, Scalar] = trial.user_attrs.get(OVERRIDES, trial.params)
    return given
