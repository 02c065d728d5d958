"""A study's trials as its store has them: asked, and never changed."""

from __future__ import annotations

from collections.abc import Callable, Collection

import optuna
from optuna.trial import FrozenTrial, TrialState

from pipeline.config.run_config import RunConfig
from pipeline.settings import Scalar
from pipeline.study.baselines import BASELINES, Baseline
from pipeline.study.carried import is_carried
from pipeline.study.claim import Claim
from pipeline.study.constraints import is_feasible, nearest_miss
from pipeline.study.front import Losses, by_first, front, losses, spread, turned
from pipeline.study.store import FINISHED, SCORED
from pipeline.training.metrics import is_better

BASELINE, OVERRIDES = "regsearch.baseline", "regsearch.overrides"
LAST_EPOCH = "regsearch.last_epoch"
"""The epoch after which a training ends, on the schedule of all; absent for its own end."""
NUM_KEPT = 5
"""So many of the best complete trials keep their weights, and the baselines theirs."""
Values = dict[str, Scalar | None]


class Trials:
    """Which trials a study has, which are its best and keep weights, and what each of them is.

    Attributes:
        config: the settings of the study.
        study: Optuna's handle on it.
    """

    config: RunConfig
    study: optuna.Study

    @property
    def metric(self) -> str:
        """What a trial's value is: the first one, in a search by several."""
        return self.config.study.metric

    @property
    def objectives(self) -> tuple[str, ...]:
        """What is optimized: `metric`, and whatever else."""
        return self.config.study.objectives

    def trials(self, *states: TrialState) -> list[FrozenTrial]:
        """All trials in these states (in any, if none is named)."""
        found = self.study.get_trials(deepcopy=False, states=states or None)
        return found if len(self.objectives) == 1 else list(map(by_first, found))

    def num_finished(self) -> int:
        """Of this study's own; those that it has from another don't count."""
        return sum(not is_carried(trial) for trial in self.trials(*FINISHED))

    def failures_in_a_row(self, forgiven: Collection[int] = ()) -> list[FrozenTrial]:
        """The trials that failed since one was finished, without those that are `forgiven`."""
        ended = [t for t in self.trials(*FINISHED, TrialState.FAIL) if t.number not in forgiven]
        failures: list[FrozenTrial] = []
        if not any(trial.state == TrialState.FAIL for trial in ended):
            return failures  # the usual case, which thousands of trials need not be sorted for
        for trial in sorted(ended, key=lambda t: str(t.datetime_complete)):
            failures = [*failures, trial] if trial.state == TrialState.FAIL else []
        return failures

    def best(self) -> FrozenTrial | None:
        """The best trial that keeps the constraints; None while there is none."""
        return next(iter(self.ranked()), None)

    def ranked(self) -> list[FrozenTrial]:
        """The complete trials that keep the constraints, the best first; of equals, the older.

        Some may be another study's (`is_carried`): their weights are not there.
        """
        return self.best_first(self.trials(TrialState.COMPLETE))

    def ranked_own(self) -> list[FrozenTrial]:
        """Those of `ranked` that this study has trained: the best `NUM_KEPT` have weights."""
        return [trial for trial in self.ranked() if not is_carried(trial)]

    def best_first(self, complete: list[FrozenTrial]) -> list[FrozenTrial]:
        """Those of these complete trials that keep the constraints, the best first: by the first
        metric, and where that is equal by the next."""
        return sorted(filter(is_feasible, complete), key=self._losses)

    def front(self) -> list[FrozenTrial]:
        """Those of `ranked` that none beats in all metrics: the best, if there is one metric."""
        trials = self.ranked()
        return [trials[index] for index in front(list(map(self._losses, trials)))]

    def contenders(self, count: int) -> list[FrozenTrial]:
        """So many trials that may win: the best; of several metrics, some that show all that the
        front offers, and then of the front without it."""
        left = self.ranked()
        if len(self.objectives) == 1:
            return left[:count]
        found: list[FrozenTrial] = []
        while left and len(found) < count:
            layer = [left[index] for index in front(list(map(self._losses, left)))]
            if not layer:  # what is left has no finite values
                break
            some = spread(list(map(self._losses, layer)), count - len(found))
            found += [layer[index] for index in some]
            numbers = {trial.number for trial in layer}
            left = [trial for trial in left if trial.number not in numbers]
        return found

    def _losses(self, trial: FrozenTrial) -> Losses:
        if len(self.objectives) == 1:  # studies of old versions keep nothing else
            return turned([value_of(trial)], self.objectives)
        return losses(trial, self.objectives)

    def nearest_miss(self) -> str:
        """Which complete trial comes nearest to the constraints, where none keeps them."""
        return nearest_miss(self.trials(TrialState.COMPLETE))

    def fits(self) -> float | None:
        """The accuracy on training images of the unregularized baseline: what the net can fit in
        these epochs; None while it is not known."""
        plain = self.baseline("unregularized")
        scored = {} if plain is None else plain.user_attrs.get(SCORED, {})
        return scored.get("train/clean_accuracy")

    def baseline(self, name: Baseline) -> FrozenTrial | None:
        """The complete trial of a baseline; None before it is there."""
        return next(iter(of_baseline(self.trials(TrialState.COMPLETE), name)), None)

    def keeps_weights(self, claim: Claim, value: float) -> bool:
        """Whether a trial that completes with this value is a baseline, or among the best if it
        keeps the constraints: if not, its weights are needed no longer once it is complete."""
        if claim.baseline is not None:
            return True
        ranked = self.ranked_own()
        if len(ranked) < NUM_KEPT:
            return True
        last = value_of(ranked[NUM_KEPT - 1])
        ties = value == last and len(self.objectives) > 1  # the next metric is not known yet
        return ties or is_better(self.metric, value, last)

    def needs_weights(self) -> Callable[[int], bool]:
        """Which trials' weights are needed: the best, the baselines', and unsettled ones."""
        trials = self.trials()  # once: a worker waits for this after each trial
        ended = {trial.number for trial in trials if trial.state.is_finished()}
        complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
        baselines = [trial for name in BASELINES for trial in of_baseline(complete, name)[:1]]
        own = self.best_first([trial for trial in complete if not is_carried(trial)])
        numbers = {trial.number for trial in (*own[:NUM_KEPT], *baselines)}
        return lambda number: number in numbers or number not in ended

    def name_of(self, trial: FrozenTrial) -> str:
        """`trial 7`, or `trial 0 (unregularized)`."""
        baseline = trial.user_attrs.get(BASELINE)
        return f"trial {trial.number}" + (f" ({baseline})" if baseline else "")

    def params_of(self, trial: FrozenTrial) -> Values:
        """What a trial has for every searched setting."""
        overrides = overrides_of(trial)
        values = self.config.values() | overrides
        return {path: values[path] for path in trial.params} | overrides

    def tags_of(self, trial: FrozenTrial) -> dict[str, str]:
        """What else MLflow shows of a trial."""
        baseline = trial.user_attrs.get(BASELINE)
        return {} if baseline is None else {"regsearch.baseline": baseline}


def of_baseline(trials: list[FrozenTrial], name: Baseline) -> list[FrozenTrial]:
    """The trials of a baseline that have not failed."""
    alive = (t for t in trials if t.state != TrialState.FAIL)
    return [t for t in alive if t.user_attrs.get(BASELINE) == name]


def value_of(trial: FrozenTrial) -> float:
    """The metric's value of a complete trial."""
    if trial.value is None:
        raise ValueError(f"trial {trial.number} is {trial.state.name} and has no value")
    return trial.value


def overrides_of(trial: FrozenTrial) -> dict[str, Scalar]:
    """What a trial changed in the file's settings."""
    given: dict[str, Scalar] = trial.user_attrs.get(OVERRIDES, trial.params)
    return given
