"""Which searched settings matter: PED-ANOVA, against what shuffled values would give."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import optuna
from optuna.importance import PedAnovaImportanceEvaluator
from optuna.trial import FrozenTrial, TrialState

from pipeline.study.ledger import BASELINE

TOP_FRACTION, MIN_TOP = 0.2, 8
LEVEL = 0.05
NUM_SHUFFLES = 299  # p reaches 1/300: enough for Holm's first step with up to 15 settings


@dataclass(frozen=True)
class Importance:
    """How much a setting decides whether a trial is among the best.

    Attributes:
        share: of the importances of all settings, 0 to 1.
        matters: p is below 5 %, corrected for the number of settings (Holm).
        p_value: how often shuffled values of the setting seem as important; not corrected.
    """

    path: str
    share: float
    matters: bool
    p_value: float


def usable(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """The finished trials with a value; no baselines, whose points nobody drew."""
    finished = (t for t in trials if t.state in (TrialState.COMPLETE, TrialState.PRUNED))
    return [t for t in finished if t.values is not None and BASELINE not in t.user_attrs]


def losses(trials: Sequence[FrozenTrial], direction: str) -> list[float]:
    """A comparable loss for each trial, lower is better: its rank, equal where values are equal.

    A pruned trial was cut early, and its last value may be one that complete trials had at that
    epoch too: it counts as the median of the complete ones at best, and ranks below its equals.
    """
    sign = -1.0 if direction == "maximize" else 1.0
    signed = [sign * (math.inf if t.value is None else t.value) for t in trials]
    done = [t.state == TrialState.COMPLETE for t in trials]
    complete = sorted(v for v, d in zip(signed, done, strict=True) if d)
    median = complete[len(complete) // 2] if complete else -math.inf
    keys = [
        (value if d else max(value, median), not d) for value, d in zip(signed, done, strict=True)
    ]
    order = {key: float(rank) for rank, key in enumerate(sorted(set(keys)))}
    return [order[key] for key in keys]


def importances(
    trials: Sequence[FrozenTrial], direction: str, paths: Sequence[str]
) -> list[Importance]:
    """The importance of each setting, the most important first (https://arxiv.org/abs/2304.10255).

    Settings that are searched under a condition are compared among the trials that have them.

    Args:
        trials: of one study, in any state; baselines are left out.
        direction: `minimize` or `maximize`.
        paths: the settings.
    """
    trials = usable(trials)
    found: dict[str, tuple[float, float]] = dict.fromkeys(paths, (0.0, 1.0))
    groups: dict[tuple[int, ...], list[str]] = {}
    for path in paths:
        having = tuple(i for i, t in enumerate(trials) if path in t.params)
        groups.setdefault(having, []).append(path)
    for having, members in groups.items():
        if len(having) > MIN_TOP:
            found |= _measure([trials[i] for i in having], direction, members)
    total = sum(value for value, _ in found.values()) or 1.0
    below = _holm({path: p for path, (_, p) in found.items()})
    listed = [Importance(path, v / total, path in below, p) for path, (v, p) in found.items()]
    return sorted(listed, key=lambda i: (-i.share, i.path))


def _measure(
    trials: list[FrozenTrial], direction: str, paths: list[str]
) -> dict[str, tuple[float, float]]:
    """Importance and p value of settings that all these trials have.

    The trials' losses are shuffled instead of each setting's values, which is the same for one
    setting, and leaves the study as it is.
    """
    study = _copy(trials)
    chance = np.random.default_rng(0)
    given = np.array(losses(trials, direction))
    observed = _evaluate(study, paths, given)
    shuffled = [_evaluate(study, paths, chance.permutation(given)) for _ in range(NUM_SHUFFLES)]
    beaten = (np.array(shuffled) >= np.array(observed) - 1e-12).sum(axis=0)
    p_values = (1 + beaten) / (1 + NUM_SHUFFLES)
    return {p: (v, float(q)) for p, v, q in zip(paths, observed, p_values, strict=True)}


def _copy(trials: list[FrozenTrial]) -> optuna.Study:
    """Pruned trials count as complete: the evaluator takes no others."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study()
    for trial in trials:
        study.add_trial(
            optuna.create_trial(value=0.0, params=trial.params, distributions=trial.distributions)
        )
    return study


def _evaluate(study: optuna.Study, paths: list[str], given: np.ndarray) -> list[float]:
    """The evaluator's importances by path, with these losses by trial number."""
    num_top = max(MIN_TOP, math.ceil(TOP_FRACTION * len(given)))
    loss: Mapping[int, float] = dict(enumerate(given.tolist()))
    evaluator = PedAnovaImportanceEvaluator(target_quantile=(num_top - 0.5) / len(given))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of ties that put all trials among the best: importance 0
        result = evaluator.evaluate(study, paths, target=lambda t: loss[t.number])
    return [result[path] for path in paths]


def _holm(p_values: Mapping[str, float]) -> set[str]:
    """The settings whose p value is significant after Holm's correction."""
    significant = set()
    for rank, path in enumerate(sorted(p_values, key=lambda p: p_values[p])):
        if p_values[path] >= LEVEL / (len(p_values) - rank):
            break
        significant.add(path)
    return significant
