"""One write to MLflow: a small record that can wait, be joined with others, and be sent twice."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from mlflow.utils.mlflow_tags import MLFLOW_RUN_NAME

from pipeline.errors import redact
from pipeline.events import (
    EpochEnded,
    Event,
    StudyEnded,
    StudyProgress,
    StudyStarted,
    Table,
    TrialEnded,
    TrialRequeued,
    TrialScored,
    TrialStarted,
    TrialState,
)

RunStatus = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]

STATUS_OF: dict[TrialState, RunStatus] = {
    "COMPLETE": "FINISHED",
    "PRUNED": "KILLED",
    "FAIL": "FAILED",
}
_STEP_OF_STATE = {"RUNNING": 0, "COMPLETE": 1, "PRUNED": 1, "FAIL": 1, "WAITING": 2}
SETTLED = 3  # beyond whatever an attempt can tell
_STATE_TAGS = {"regsearch.state", "regsearch.reason"}
_ATTEMPT_TAGS = {"regsearch.attempt", "regsearch.worker"}


@dataclass(frozen=True)
class Point:
    """A metric's value at a step (an epoch of a trial; a trial of the study)."""

    name: str
    value: float
    step: int
    time_ms: int


@dataclass(frozen=True, order=True)
class Standing:
    """How far a trial has come: what is told from further back says nothing about its state.

    Within an attempt a verdict follows the start, and going back to the queue follows both: only
    the store can requeue a trial, and whoever still ran it then has lost it.
    """

    attempt: int = 0
    step: int = 0

    @classmethod
    def of(cls, tags: Mapping[str, str], attempt: int) -> Standing:
        """As an attempt at a trial tells it by a run's tags."""
        return cls(attempt, _STEP_OF_STATE.get(tags.get("regsearch.state", ""), 0))

    @classmethod
    def of_run(cls, tags: Mapping[str, str]) -> Standing:
        """As a run has it."""
        attempt = tags.get("regsearch.attempt", "")
        return cls.of(tags, int(attempt) if attempt.isdecimal() else 0)


@dataclass(frozen=True)
class RunUpdate:
    """What one run shall have; sending it again changes nothing.

    Args:
        trial: the trial's number in the study; `None` is the study itself.
        time_ms: when it happened, in milliseconds since 1970: the start of a run that it creates.
        status: the run's status from now on; `None` leaves it.
        end_time_ms: when the run ended, for a status that ends it.
        attempt: which attempt at the trial says so, from 1; 0 for the study.
        tables: by the names of the files that they become.
    """

    trial: int | None
    time_ms: int
    params: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    metrics: tuple[Point, ...] = ()
    status: RunStatus | None = None
    end_time_ms: int | None = None
    attempt: int = 0
    tables: Mapping[str, Table] = field(default_factory=dict)

    @property
    def standing(self) -> Standing:
        return Standing.of(self.tags, self.attempt)

    def seen_from(self, now: Standing) -> RunUpdate:
        """The update without what it says about the run's state, if the run is further by now."""
        if self.standing >= now:
            return self
        stale = _STATE_TAGS | (_ATTEMPT_TAGS if self.attempt < now.attempt else set())
        tags = {name: value for name, value in self.tags.items() if name not in stale}
        return replace(self, tags=tags, status=None, end_time_ms=None)


def to_updates(events: Iterable[Event]) -> list[RunUpdate]:
    """What events mean for the runs that they are about; some mean nothing to MLflow."""
    return [update for event in events if (update := _update(event)) is not None]


def coalesce(updates: Iterable[RunUpdate]) -> list[RunUpdate]:
    """One update a run, in the order in which the runs first appear; what came later wins.

    The latest attempt alone says how a trial stands; the points of all attempts are kept.
    """
    by_run: dict[int | None, list[RunUpdate]] = {}
    for update in updates:
        by_run.setdefault(update.trial, []).append(update)
    return [_join(of_one_run) for of_one_run in by_run.values()]


def _join(updates: list[RunUpdate]) -> RunUpdate:
    attempt = max(update.attempt for update in updates)
    current = [update.seen_from(Standing(attempt)) for update in updates]
    current.sort(key=lambda update: update.standing.step)  # stable; the study's are all equal
    latest = next((update for update in reversed(current) if update.status), current[0])
    return RunUpdate(
        trial=updates[0].trial,
        time_ms=updates[0].time_ms,
        params={name: value for update in updates for name, value in update.params.items()},
        tags={name: value for update in current for name, value in update.tags.items()},
        metrics=tuple(point for update in updates for point in update.metrics),
        status=latest.status,
        end_time_ms=latest.end_time_ms,
        attempt=attempt,
        tables={name: table for update in updates for name, table in update.tables.items()},
    )


def _update(event: Event) -> RunUpdate | None:
    match event:
        case TrialStarted():
            return _started(event)
        case EpochEnded():
            return _measured(event.trial, event.epoch, event, event.attempt)
        case TrialScored():
            scored = _measured(event.trial, event.epoch, event, event.attempt)
            return replace(scored, tags={**scored.tags, **event.tags}, tables=event.tables)
        case TrialEnded():
            return _settled(event, event.state, STATUS_OF[event.state])
        case TrialRequeued():
            return _settled(event, "WAITING", "KILLED")
        case StudyProgress():
            measured = _measured(None, event.step, event)
            return replace(measured, tags={**measured.tags, **event.tags})
        case StudyStarted():
            return RunUpdate(None, event.time_ms, status="RUNNING")
        case StudyEnded():
            return RunUpdate(None, event.time_ms, status=event.status, end_time_ms=event.time_ms)
    return None


def _started(event: TrialStarted) -> RunUpdate:
    tags = {
        MLFLOW_RUN_NAME: event.name or f"trial {event.trial}",
        **event.tags,
        "regsearch.attempt": str(event.attempt),
        "regsearch.state": "RUNNING",
    }
    if event.worker:
        tags["regsearch.worker"] = event.worker
    params = {path: str(value) for path, value in event.params.items()}
    return RunUpdate(
        event.trial, event.time_ms, params, tags, status="RUNNING", attempt=event.attempt
    )


def _settled(event: TrialEnded | TrialRequeued, state: str, status: RunStatus) -> RunUpdate:
    """The reason is told even if there is none: an earlier attempt may have left one."""
    tags = {
        "regsearch.attempt": str(event.attempt),
        "regsearch.state": state,
        "regsearch.reason": redact(event.reason),
    }
    return RunUpdate(
        event.trial,
        event.time_ms,
        tags=tags,
        status=status,
        end_time_ms=event.time_ms,
        attempt=event.attempt,
    )


def _measured(
    trial: int | None, step: int, event: EpochEnded | TrialScored | StudyProgress, attempt: int = 0
) -> RunUpdate:
    """Points, and tags for what MLflow would store as 1.797e308, which sorts first."""
    finite = {name: value for name, value in event.metrics.items() if math.isfinite(value)}
    tags = {
        f"regsearch.non_finite.{name}": f"{value} at step {step}"
        for name, value in event.metrics.items()
        if name not in finite
    }
    points = tuple(Point(name, float(value), step, event.time_ms) for name, value in finite.items())
    return RunUpdate(trial, event.time_ms, tags=tags, metrics=points, attempt=attempt)
