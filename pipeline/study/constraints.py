"""Constraints: bounds that a trial's metrics have to keep for it to count among the best.

A trial is judged by the metrics of its best epoch (of the last one, where it was pruned). How far
it is beyond each bound is kept with it as Optuna's constraint values, which the samplers learn
from: a trial is feasible where none is above 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from optuna.study._constrained_optimization import _CONSTRAINTS_KEY
from optuna.trial import FrozenTrial

from pipeline.config.run_config import RunConfig
from pipeline.errors import UserError
from pipeline.study.store import SCORED
from pipeline.training.metrics import direction

CONSTRAINTS_PREFIX = f"{_CONSTRAINTS_KEY}:"
FEASIBLE = "regsearch.feasible"
"""Tag of a trial's run: `true` or `false`."""


def violations(bounds: Mapping[str, float], metrics: Mapping[str, float]) -> dict[str, float]:
    """By how much each bound is missed, in the metric's unit; 0 or less where it is kept.

    A bound is the highest value of a metric of which less is better, the lowest of any other.

    Raises:
        KeyError: for a bound on a metric that is not there.
    """
    return {
        name: metrics[name] - bound if direction(name) == "minimize" else bound - metrics[name]
        for name, bound in sorted(bounds.items())
    }


def keeps(bounds: Mapping[str, float], metrics: Mapping[str, float]) -> bool:
    """Whether metrics keep all bounds."""
    return all(missed <= 0 for missed in violations(bounds, metrics).values())


def constraint_attrs(bounds: Mapping[str, float], metrics: Mapping[str, float]) -> dict[str, float]:
    """The violations as `optuna.Trial.set_constraint` would write them: system attributes.

    That call is a transaction of its own, and asks nobody whose trial it is; as attributes they
    come with the verdict or not at all.
    """
    missed = violations(bounds, metrics).items()
    return {f"{CONSTRAINTS_PREFIX}{name}": value for name, value in missed}


def constraint_tags(config: RunConfig, metrics: Mapping[str, float]) -> dict[str, str]:
    """What MLflow shows of a trial with these metrics; nothing in a study without constraints."""
    bounds = config.study.constraints
    return {FEASIBLE: str(keeps(bounds, metrics)).lower()} if bounds else {}


def is_feasible(trial: FrozenTrial) -> bool:
    """Whether a finished trial keeps all constraints of its study."""
    return all(missed <= 0 for missed in trial.constraints.values())


def violation(trial: FrozenTrial) -> float:
    """By how much a finished trial misses its study's constraints, summed over them as the samplers
    do; 0 where it keeps them all."""
    return float(sum(missed for missed in trial.constraints.values() if missed > 0))


def nearest_miss(complete: Sequence[FrozenTrial]) -> str:
    """Where no complete trial is feasible: which one comes nearest (in the sum over the bounds, as
    for the samplers), and by how much it misses which; else empty."""
    if not complete or any(map(is_feasible, complete)):
        return ""
    nearest = min(complete, key=violation)
    missed = {name: value for name, value in nearest.constraints.items() if value > 0}
    listed = " and ".join(f"{name} by {value:.4g}" for name, value in missed.items())
    return f"no trial keeps the constraints; the nearest, trial {nearest.number}, misses {listed}"


def judged(
    finished: Sequence[FrozenTrial], bounds: Mapping[str, float]
) -> dict[int, dict[str, float]]:
    """The constraint attributes of finished trials under other bounds, by id.

    Raises:
        UserError: a trial was finished by a version that did not keep a metric.
    """
    require_scored(finished, list(bounds), "study.constraints")
    return {
        trial._trial_id: constraint_attrs(bounds, trial.user_attrs.get(SCORED, {}))
        for trial in finished
    }


def require_scored(finished: Iterable[FrozenTrial], names: Sequence[str], where: str) -> None:
    """Raise a `UserError` if a trial was finished by a version that did not keep such a metric."""
    for trial in finished:
        missing = [name for name in names if name not in trial.user_attrs.get(SCORED, {})]
        if missing:
            raise UserError(
                f"trial {trial.number} does not say its {', '.join(missing)}",
                where=where,
                rule="all trials of a study are judged alike; this one was finished by a version "
                "that did not measure it",
                cure="leave it out, or give the study another `study.name`",
            )
