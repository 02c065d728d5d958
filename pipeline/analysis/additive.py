"""Each searched setting by itself: what trials would have come to with the other settings equal.

A sampler that learns draws several settings from narrow regions at once, and better trials later.
So a setting without any effect goes along with those that have one, and shuffling its values alone
takes it for important (in ten of fifteen studies of 60 trials drawn by independent TPE). Hence how
bad the trials were is explained by all settings together, as a sum of one curve a setting, and a
setting is looked at with the other curves taken off (partial residuals; Hastie & Tibshirani,
Generalized Additive Models, 1990).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial

from pipeline.analysis.ranking import Floats

KNOTS = 5
"""A number's curve is straight between so many points of its range."""
RIDGE = 0.5
"""Pulls each curve to 0 as if by half a trial at each of its points."""

Distribution = FloatDistribution | IntDistribution | CategoricalDistribution


@dataclass(frozen=True)
class Dimension:
    """A searched setting over the trials.

    Attributes:
        active: (N,), whether each trial drew it.
        positions: (N,), from 0 to 1 in its range (on its log scale where it has one), or the
            index of its choice; NaN where it was not drawn.
        basis: (N, K), the curve's columns, of mean 0 over the trials that drew it, 0 elsewhere.
    """

    path: str
    distribution: Distribution
    positions: Floats
    basis: Floats

    @property
    def active(self) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        return ~np.isnan(self.positions)

    @property
    def is_number(self) -> bool:
        return not isinstance(self.distribution, CategoricalDistribution)


def dimensions(trials: Sequence[FrozenTrial]) -> list[Dimension]:
    """Every setting that the trials drew, sorted by path."""
    latest = {path: d for trial in trials for path, d in trial.distributions.items()}
    found = []
    for path, distribution in sorted(latest.items()):
        assert isinstance(distribution, Distribution)
        drawn = [trial.params.get(path) for trial in trials]
        positions = np.array([np.nan if v is None else position(distribution, v) for v in drawn])
        found.append(Dimension(path, distribution, positions, _basis(distribution, positions)))
    return found


def position(distribution: Distribution, value: float | str | bool) -> float:
    """Where in its range a value is, from 0 to 1; of a choice, its index."""
    if isinstance(distribution, CategoricalDistribution):
        return float(distribution.to_internal_repr(value))
    low, high, at = (float(x) for x in (distribution.low, distribution.high, value))
    if distribution.log:
        low, high, at = np.log(low), np.log(high), np.log(at)
    return float((at - low) / (high - low)) if high > low else 0.0


def _basis(distribution: Distribution, positions: Floats) -> Floats:
    active = ~np.isnan(positions)
    at = positions[active, None]
    if isinstance(distribution, CategoricalDistribution):
        columns = (at == np.arange(len(distribution.choices))).astype(np.float64)
    else:
        columns = (1 - np.abs(at - np.linspace(0, 1, KNOTS)) * (KNOTS - 1)).clip(0, 1)
    basis = np.zeros((len(positions), columns.shape[1]))
    basis[active] = columns - columns.mean(axis=0)
    return basis


class AdditiveModel:
    """How bad trials were as a sum of curves, one a setting, by ridge regression.

    Args:
        badness: (N,), see `ranking.badness`.
    """

    def __init__(self, dims: Sequence[Dimension], badness: Floats) -> None:
        self.dims, self.badness = dims, badness
        self._solver = _solver(np.hstack([dim.basis for dim in dims]))
        ends = np.cumsum([dim.basis.shape[1] for dim in dims])
        self._parts = dict(
            zip((dim.path for dim in dims), np.split(self._solver, ends[:-1]), strict=True)
        )

    def curve(self, dim: Dimension) -> Floats:
        """Of a setting: (KNOTS,) or (choices,), how bad each point of it is, up to a constant."""
        return np.asarray(self._parts[dim.path] @ self.badness)

    def adjusted(self, dim: Dimension, badness: Floats | None = None) -> Floats:
        """(N,), the badness with the curves of all other settings taken off."""
        given = self.badness if badness is None else badness
        others = (d for d in self.dims if d.path != dim.path)
        return np.asarray(given - sum(d.basis @ (self._parts[d.path] @ given) for d in others))

    def explained(self, dim: Dimension, badness: Floats) -> float:
        """The sum of squares of a setting's curve over the trials, over that which is left."""
        fitted = dim.basis @ (self._parts[dim.path] @ badness)
        left = self.adjusted(dim, badness) - fitted
        return float(fitted @ fitted) / max(float(left @ left), 1e-12)

    def without_effect(self, dim: Dimension, count: int) -> Iterator[Floats]:
        """The badness as it might be if a setting did nothing: `count` draws, the same each time.

        The others' fit stays, and what it leaves is shuffled (Freedman & Lane 1983,
        https://doi.org/10.1080/07350015.1983.10509354).
        """
        rest = [d.basis for d in self.dims if d.path != dim.path]
        fitted = np.zeros_like(self.badness)
        if rest:
            columns = np.hstack(rest)
            fitted = columns @ (_solver(columns) @ self.badness)
        residual, chance = self.badness - fitted, np.random.default_rng(0)
        for _ in range(count):
            yield fitted + chance.permutation(residual)


def _solver(columns: Floats) -> Floats:
    """(K, N): from badness to coefficients."""
    gram = columns.T @ columns + RIDGE * np.eye(columns.shape[1])
    return np.asarray(np.linalg.solve(gram, columns.T))
