"""The Pareto front of a search by several metrics: the trials that none beats in all of them.

A trial's `value` is its first metric everywhere but in Optuna's store, which has them all.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence

import numpy as np
from optuna.trial import FrozenTrial

from pipeline.study.store import SCORED
from pipeline.training.metrics import direction

Losses = tuple[float, ...]
"""What a trial has of each metric, turned so that less is better."""


def by_first(trial: FrozenTrial) -> FrozenTrial:
    """A trial whose value is its first metric: Optuna gives a trial of several none."""
    values = trial.values
    return trial if values is None else with_value(trial, values[0])


def by_metric(trial: FrozenTrial, metric: str) -> FrozenTrial:
    """A finished trial whose value is this metric at its best epoch, and none where it has none.

    Its curve is left out, which is of the first metric.
    """
    judged = with_value(trial, trial.user_attrs.get(SCORED, {}).get(metric))
    judged.intermediate_values = {}
    return judged


def with_value(trial: FrozenTrial, value: float | None) -> FrozenTrial:
    """A copy with one value, that shares all else."""
    alike = copy.copy(trial)
    alike.values = None if value is None else [value]
    return alike


def losses(trial: FrozenTrial, metrics: Sequence[str]) -> Losses:
    """A complete trial's metrics, less being better; infinite where it has none."""
    scored = trial.user_attrs.get(SCORED, {})
    return turned([scored.get(metric, math.nan) for metric in metrics], metrics)


def on_selection(scored: Mapping[str, float], metric: str) -> float:
    """A metric of the search on the selection images, by what is kept of a training."""
    if metric == "generalization_gap":
        return scored["train/clean_accuracy"] - scored["selection/accuracy"]
    return scored[f"selection/{metric.rpartition('/')[2]}"]


def turned(values: Sequence[float], metrics: Sequence[str]) -> Losses:
    """Values of metrics so that less is better; infinite where they are no numbers."""
    signed = [
        -value if direction(metric) == "maximize" else value
        for value, metric in zip(values, metrics, strict=True)
    ]
    return tuple(math.inf if math.isnan(value) else value for value in signed)


def front(points: Sequence[Losses]) -> list[int]:
    """Which of the points no other dominates, the best by the first metric first.

    One dominates another that is as good or better in every metric and better in one; so equal
    points are on the front together. A point with an infinite loss is on none.
    """
    finite = [i for i, point in enumerate(points) if all(map(math.isfinite, point))]
    ordered = sorted(finite, key=lambda i: points[i])
    found: list[int] = []
    for index in ordered:  # what dominates a point comes before it
        if not any(_dominates(points[other], points[index]) for other in found):
            found.append(index)
    return found


def spread(points: Sequence[Losses], count: int) -> list[int]:
    """So many points that show what can be had: the best by the first metric, then always the one
    farthest from those that were taken, each metric's range being 1. In this order."""
    if not points or not count:
        return []
    scale = np.asarray(points, dtype=np.float64)
    low, high = scale.min(axis=0), scale.max(axis=0)
    scale = (scale - low) / np.where(high > low, high - low, 1.0)
    taken = [min(range(len(points)), key=lambda i: points[i])]
    while len(taken) < min(count, len(points)):
        away = np.linalg.norm(scale[:, None] - scale[taken][None], axis=2).min(axis=1)
        away[taken] = -1.0
        taken.append(int(away.argmax()))
    return taken


def _dominates(one: Losses, other: Losses) -> bool:
    return one != other and all(a <= b for a, b in zip(one, other, strict=True))
