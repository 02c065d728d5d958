"""How strongly a trial regularizes, in one number."""

from __future__ import annotations

import math
from statistics import fmean

from optuna.trial import FrozenTrial

from pipeline.config.run_config import RunConfig, off_values
from pipeline.config.search_space import CategoricalEntry, SearchEntry, same
from pipeline.settings import Scalar


def strength(trial: FrozenTrial, config: RunConfig) -> float | None:
    """The mean position of a trial's searched regularizers in their ranges, in [0, 1].

    0 is the end of a range that is nearest to the value which switches the regularizer off, 1 the
    one that is farthest from it; on a log scale where the search is. None where no regularizer is
    searched.
    """
    positions = [
        _position(config.search[path], trial.params[path], off)
        for path, off in off_values().items()
        if path in config.search and path in trial.params
    ]
    return fmean(positions) if positions else None


def _position(entry: SearchEntry, value: Scalar, off: Scalar) -> float:
    """How far a value is from `off`, as a share of the farthest that the entry allows."""
    if isinstance(off, str) or isinstance(entry, CategoricalEntry):
        return _rank(entry, value, off)
    low, high = entry.low, entry.high
    zero = min(max(float(off), low), high)
    low, high, zero, here = (_scaled(x, log=entry.log) for x in (low, high, zero, float(value)))
    return abs(here - zero) / max(high - zero, zero - low)


def _scaled(value: float, *, log: bool) -> float:
    return math.log(value) if log else value


def _rank(entry: SearchEntry, value: Scalar, off: Scalar) -> float:
    """Of choices: by their distance from `off` where they are numbers; else 0 for off, 1 for on."""
    numbers = [c for c in entry.edges() if not isinstance(c, str)]
    if isinstance(off, str) or isinstance(value, str) or len(numbers) < len(entry.edges()):
        return 0.0 if same(value, off) else 1.0
    return abs(value - off) / max(abs(number - off) for number in numbers)
