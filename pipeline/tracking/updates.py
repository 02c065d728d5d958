"""One write to MLflow: a small record that can wait, be joined with others, and be sent twice."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

RunStatus = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]


@dataclass(frozen=True)
class Point:
    """A metric's value at a step (an epoch of a trial; a trial of the study)."""

    name: str
    value: float
    step: int
    time_ms: int


@dataclass(frozen=True)
class RunUpdate:
    """What one run shall have; sending it again changes nothing.

    Args:
        trial: the trial's number in the study; `None` is the study itself.
        time_ms: when it happened, in milliseconds since 1970: the start of a run that it creates.
        status: the run's status from now on; `None` leaves it.
        end_time_ms: when the run ended, for a status that ends it.
    """

    trial: int | None
    time_ms: int
    params: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    metrics: tuple[Point, ...] = ()
    status: RunStatus | None = None
    end_time_ms: int | None = None


def coalesce(updates: Iterable[RunUpdate]) -> list[RunUpdate]:
    """One update a run, in the order in which the runs first appear; what came later wins."""
    by_run: dict[int | None, list[RunUpdate]] = {}
    for update in updates:
        by_run.setdefault(update.trial, []).append(update)
    return [_join(of_one_run) for of_one_run in by_run.values()]


def _join(updates: list[RunUpdate]) -> RunUpdate:
    latest = next((update for update in reversed(updates) if update.status), updates[0])
    return RunUpdate(
        trial=updates[0].trial,
        time_ms=updates[0].time_ms,
        params={name: value for update in updates for name, value in update.params.items()},
        tags={name: value for update in updates for name, value in update.tags.items()},
        metrics=tuple(point for update in updates for point in update.metrics),
        status=latest.status,
        end_time_ms=latest.end_time_ms,
    )
