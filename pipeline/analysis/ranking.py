"""The trials that the search drew, and how good each was beside the others."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from optuna.trial import FrozenTrial, TrialState
from scipy.stats import rankdata

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
    """How bad each finished trial was, from -0.5 (the best) to 0.5; equals share a rank.

    A pruned trial's last report is no final value: a loss may be low only because the trial was
    stopped before it overfitted. So it counts as its last report, but never as better than the
    median of the complete trials, nor as one of the top trials while enough are complete. It does
    not rank below all complete ones either: those include trials from before pruning began, some
    of them ruined.
    """
    sign = -1.0 if direction == "maximize" else 1.0
    losses = [_loss(trial, sign) for trial in trials]
    complete = sorted(
        loss for loss, t in zip(losses, trials, strict=True) if t.state == TrialState.COMPLETE
    )
    middle = max(len(complete) // 2, num_top(len(trials)) - 1)
    cap = complete[min(middle, len(complete) - 1)] if complete else -math.inf
    keys = [
        (max(loss, cap), 1, loss) if trial.state == TrialState.PRUNED else (loss, 0, loss)
        for loss, trial in zip(losses, trials, strict=True)
    ]
    place = {key: index for index, key in enumerate(sorted(set(keys)))}
    ranked = rankdata([place[key] for key in keys])
    return np.asarray((ranked - 1) / max(len(trials) - 1, 1) - 0.5, dtype=np.float64)


def _loss(trial: FrozenTrial, sign: float) -> float:
    value = trial.value
    if trial.state == TrialState.PRUNED and trial.intermediate_values:
        value = trial.intermediate_values[max(trial.intermediate_values)]
    return sign * value if value is not None and math.isfinite(value) else math.inf
