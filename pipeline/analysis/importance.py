"""Which searched settings matter: PED-ANOVA, against what chance alone would give."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import optuna
from optuna.importance import PedAnovaImportanceEvaluator
from optuna.trial import FrozenTrial, TrialState

from pipeline.analysis.additive import AdditiveModel, Dimension, dimensions
from pipeline.analysis.ranking import Floats, badness, num_top, searched_trials

MIN_TRIALS = 10
"""With fewer nothing is said."""
MIN_TO_DISMISS = 30
"""With fewer no setting is said not to matter."""
LEVEL = 0.015
"""A setting matters if chance gives its importance at most this often. Of eight settings without
any effect, one in nine studies then has one that seems to matter; it merely stays in the search."""
PERMUTATIONS = 999
ENOUGH = 10
"""So many shufflings that reach the importance settle that it is chance's (Besag & Clifford 1991,
https://doi.org/10.1093/biomet/78.2.301)."""


@dataclass(frozen=True)
class Importance:
    """A searched setting's part in how good the trials were.

    Attributes:
        share: of all settings' importances, from 0 to 1; they sum to 1.
        p_value: how often a setting without effect would look as important, from 0 to 1; None
            where fewer than `MIN_TRIALS` trials drew it.
        matters: None where there are too few trials to tell.
        num_trials: that drew it.
    """

    path: str
    share: float
    p_value: float | None
    matters: bool | None
    num_trials: int


def importance(trials: Sequence[FrozenTrial], direction: str) -> list[Importance]:
    """The importance of every setting that the trials drew: first those that are proven to matter,
    since shares are rough where a sampler has left little to compare; then by their shares.

    PED-ANOVA (https://arxiv.org/abs/2304.10255) asks how differently the top trials and all trials
    are spread over a setting's range. Both are taken from the trials (`evaluate_on_local`): a
    sampler that learns draws most trials from good regions, and compared with an even spread each
    setting that it has narrowed down would seem important, by its own doing. "Top" is by
    `AdditiveModel.adjusted`, which keeps apart the settings that the sampler has moved together.

    What PED-ANOVA can't see is a region that is bad and was soon left: it looks at the top alone.
    So a setting also matters if its curve explains more of how bad trials were than chance does.
    With two tests, each has to be twice as sure (Bonferroni).

    Args:
        trials: of a study, in any state; see `searched_trials` for those that count, and `ranks`
            for pruned ones.
        direction: of the metric, `maximize` or `minimize`.
    """
    trials = searched_trials(trials)
    dims = dimensions(trials)
    if not dims:
        return []
    model = AdditiveModel(dims, badness(trials, direction))
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that PED-ANOVA's target is minimized
        evaluators = {dim.path: _PedAnova(dim, trials) for dim in dims}
        raw = {dim.path: evaluators[dim.path](model.adjusted(dim)) for dim in dims}
        tested = {dim.path: _p_value(model, dim, evaluators[dim.path]) for dim in dims}
    total = sum(raw.values()) or 1.0
    found = []
    for dim in dims:
        num, p_value = int(dim.active.sum()), tested[dim.path]
        matters = _matters(p_value, num)
        found.append(Importance(dim.path, raw[dim.path] / total, p_value, matters, num))
    return sorted(found, key=lambda one: (one.matters is not True, -one.share))


def _matters(p_value: float | None, num_trials: int) -> bool | None:
    if p_value is None or p_value <= LEVEL:
        return None if p_value is None else True
    return False if num_trials >= MIN_TO_DISMISS else None


class _PedAnova:
    """Optuna's evaluator on the trials that drew one setting, for any ranks of theirs."""

    def __init__(self, dim: Dimension, trials: Sequence[FrozenTrial]) -> None:
        self.path, self.active = dim.path, dim.active
        drew = list(itertools.compress(trials, self.active))
        self.study = optuna.create_study(storage=optuna.storages.InMemoryStorage())
        for trial in drew:
            self.study.add_trial(
                optuna.create_trial(
                    state=TrialState.COMPLETE,
                    value=0.0,  # the ranks are given as a target
                    params={dim.path: trial.params[dim.path]},
                    distributions={dim.path: dim.distribution},
                )
            )
        quantile = num_top(len(drew)) / max(len(drew), 2)
        self.evaluator = PedAnovaImportanceEvaluator(target_quantile=quantile)

    def __call__(self, adjusted: Floats) -> float:
        ranked = adjusted[self.active]
        found = self.evaluator.evaluate(
            self.study, params=[self.path], target=lambda trial: float(ranked[trial.number])
        )
        return found[self.path]


def _p_value(model: AdditiveModel, dim: Dimension, ped_anova: _PedAnova) -> float | None:
    """The smaller of two tests' p-values, doubled; PED-ANOVA, which takes long, only if need be."""
    if dim.active.sum() < MIN_TRIALS:
        return None
    observed = model.explained(dim, model.badness)
    draws = list(model.without_effect(dim, PERMUTATIONS))
    reached = sum(model.explained(dim, draw) >= observed for draw in draws)
    by_curve = (reached + 1) / (PERMUTATIONS + 1)
    if 2 * by_curve <= LEVEL:
        return 2 * by_curve
    return min(1.0, 2 * by_curve, 2 * _by_ped_anova(model, dim, ped_anova, draws))


def _by_ped_anova(
    model: AdditiveModel, dim: Dimension, ped_anova: _PedAnova, draws: Sequence[Floats]
) -> float:
    observed, reached = ped_anova(model.adjusted(dim)), 0
    for count, draw in enumerate(draws, start=1):
        reached += ped_anova(model.adjusted(dim, draw)) >= observed
        if reached == ENOUGH:
            return reached / count
    return (reached + 1) / (len(draws) + 1)
