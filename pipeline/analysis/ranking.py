"""The trials that the search drew, and how good each was beside the others."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import median

import numpy as np
import numpy.typing as npt
from optuna.trial import FrozenTrial, TrialState
from scipy.stats import rankdata

from pipeline.study.constraints import violation
from pipeline.study.trials import BASELINE

Floats = npt.NDArray[np.float64]

TOP_FRACTION, MIN_TOP = 0.2, 8


def searched_trials(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """The finished trials without the baselines, which have no parameters but the nearest ones."""
    finished = (TrialState.COMPLETE, TrialState.PRUNED)
    return [t for t in trials if t.state in finished and BASELINE not in t.user_attrs]


def num_top(num_trials: int) -> int:
    """How many trials are the top ones: a fifth, but eight where there are few; half at most.

    PED-ANOVA estimates a density from them, which five do poorly.
    """
    return max(1, min(max(math.ceil(TOP_FRACTION * num_trials), MIN_TOP), num_trials // 2))


def ranks(trials: Sequence[FrozenTrial], direction: str) -> Floats:
    """How bad each finished trial was, from -0.5 (the best) to 0.5; equals share a rank. Those that
    break the study's constraints come after all that keep them.

    A pruned trial has no final value: it counts as what it would have come to if it had gained from
    there on what complete trials gained, at the median. (Its last report would not do: one that was
    stopped late looks better than one that was stopped early, whatever they are worth. In 8 of 24
    studies with half of their trials pruned, a setting worth 4 points then seemed not to matter.)
    That is a guess, so it never counts as better than the median of the complete trials, nor as one
    of the top trials while enough are complete. It does not rank below all complete ones either:
    those include trials from before pruning began, some of them ruined.
    """
    keys = _keys(trials, direction)
    place = {key: index for index, key in enumerate(sorted(set(keys)))}
    ranked = rankdata([place[key] for key in keys])
    return np.asarray((ranked - 1) / max(len(trials) - 1, 1) - 0.5, dtype=np.float64)


def badness(trials: Sequence[FrozenTrial], direction: str) -> Floats:
    """How bad each finished trial was, 0 in the middle: its loss in units of the trials' median
    deviation, on a scale that is even near the middle and logarithmic far out.

    Ranks spread trials that chance alone tells apart as widely as those that a setting has ruined:
    in 4 of 20 studies a setting worth 4 points then seemed not to matter, and in none of them by
    this. A few ruined trials don't outweigh all others either, as they would by their losses.
    (Where in its range a setting is good is asked of the ranks: they see more beside a ruin.)
    """
    losses = np.array([loss for loss, _, _ in _keys(trials, direction)])
    finite = losses[np.isfinite(losses)]
    if not len(finite):
        return np.zeros(len(losses))
    away = finite - np.median(finite)
    unit = np.median(np.abs(away)) or np.abs(away).mean() or 1.0
    found = np.full(len(losses), np.arcsinh(away.max() / unit) + 1)  # diverged: worse than all
    found[np.isfinite(losses)] = np.arcsinh(away / unit)
    return found


def _keys(trials: Sequence[FrozenTrial], direction: str) -> list[tuple[float, int, float]]:
    """What trials are sorted by, the best first; first of all by their losses, with what is added
    to those that break constraints."""
    sign = -1.0 if direction == "maximize" else 1.0
    complete = [t for t in trials if t.state == TrialState.COMPLETE]
    added = _added(trials, sign)
    ordered = sorted(_end(trial, sign) + added(trial) for trial in complete)
    middle = max(len(ordered) // 2, num_top(len(trials)) - 1)
    cap = ordered[min(middle, len(ordered) - 1)] if ordered else -math.inf
    keys = []
    for trial in trials:
        pruned = trial.state == TrialState.PRUNED
        loss = _guess(trial, complete, sign) if pruned else _end(trial, sign)
        loss += added(trial)
        keys.append((max(loss, cap), 1, loss) if pruned else (loss, 0, loss))
    return keys


def _added(trials: Sequence[FrozenTrial], sign: float) -> Callable[[FrozenTrial], float]:
    """What makes every trial that breaks the constraints worse than all that keep them, and the
    worse, the further it misses them (as the samplers see it: Deb 2000,
    https://doi.org/10.1016/S0045-7825(99)00389-8): the range of all losses, and as much again for
    what is missed at the median."""
    losses = [loss for trial in trials if math.isfinite(loss := _lowest(trial, sign))]
    missed = [amount for trial in trials if (amount := violation(trial)) > 0]
    if not missed:
        return lambda _: 0.0
    span = max(losses, default=0.0) - min(losses, default=0.0) or 1.0
    unit = median(missed)

    def added(trial: FrozenTrial) -> float:
        amount = violation(trial)
        return span * (1 + amount / unit) if amount > 0 else 0.0

    return added


def _lowest(trial: FrozenTrial, sign: float) -> float:
    """The loss that a trial ended with, or the lowest that it had when it was pruned."""
    if trial.state == TrialState.COMPLETE:
        return _end(trial, sign)
    return _so_far(trial, max(trial.intermediate_values, default=0), sign)


def _end(trial: FrozenTrial, sign: float) -> float:
    """The loss that a trial ended with."""
    return _finite(sign * trial.value if trial.value is not None else math.inf)


def _so_far(trial: FrozenTrial, epoch: int, sign: float) -> float:
    """The lowest loss that a trial had reported by an epoch."""
    reports = trial.intermediate_values.items()
    return min((_finite(sign * value) for at, value in reports if at <= epoch), default=math.inf)


def _guess(trial: FrozenTrial, complete: Sequence[FrozenTrial], sign: float) -> float:
    """The loss that a pruned trial might have ended with."""
    if not trial.intermediate_values:
        return _end(trial, sign)
    epoch = max(trial.intermediate_values)
    gains = [_end(other, sign) - _so_far(other, epoch, sign) for other in complete]
    known = [gain for gain in gains if math.isfinite(gain)]
    return _so_far(trial, epoch, sign) + (median(known) if known else 0.0)


def _finite(loss: float) -> float:
    return loss if math.isfinite(loss) else math.inf
