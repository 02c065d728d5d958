"""What happened to a study, as records that are written to its journal and read by anybody."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

from pipeline.settings import Scalar

TrialState = Literal["COMPLETE", "PRUNED", "FAIL"]
RESUMED_AFTER = "regsearch.resumed_after_epoch"
"""Tag of an attempt that goes on from a checkpoint."""

StudyStatus = Literal["FINISHED", "FAILED", "KILLED"]
Table = Sequence[Mapping[str, Scalar]]
"""Rows that all have the same columns."""


@dataclass(frozen=True)
class TrialStarted:
    """An attempt at a trial begins.

    Args:
        attempt: counts from 1; a trial that was interrupted or killed is attempted again.
        worker: who runs it.
        name: what people shall read ("trial 7", "unregularized").
        params: dotted path of a setting -> the value that it is tried with.
        time_ms: milliseconds since 1970, as in every event.
        tags: what else is to be known of it, such as `regsearch.baseline`.
    """

    trial: int
    attempt: int
    worker: str
    name: str
    params: Mapping[str, Scalar | None]
    num_epochs: int
    time_ms: int
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class EpochEnded:
    """An epoch, counted from 1, and what was measured in it; values may be infinite or NaN."""

    trial: int
    attempt: int
    epoch: int
    metrics: Mapping[str, float]
    time_ms: int


@dataclass(frozen=True)
class TrialScored:
    """What is known of a trial as a whole: figures at its best epoch, tags to filter by, and tables
    by their file names."""

    trial: int
    attempt: int
    epoch: int
    metrics: Mapping[str, float]
    tags: Mapping[str, str]
    time_ms: int
    tables: Mapping[str, Table] = field(default_factory=dict)


@dataclass(frozen=True)
class TrialEnded:
    """A trial has its verdict; `value` is the study's metric, where it has one."""

    trial: int
    attempt: int
    state: TrialState
    reason: str
    value: float | None
    time_ms: int


@dataclass(frozen=True)
class TrialRequeued:
    """An attempt was interrupted or killed: its trial waits for the next one."""

    trial: int
    attempt: int
    reason: str
    time_ms: int


@dataclass(frozen=True)
class Note:
    """A line for the people who watch; MLflow is not told."""

    text: str
    time_ms: int


@dataclass(frozen=True)
class StudyProgress:
    """Figures about the whole study, and tags; `step` is the number of its ended trials."""

    step: int
    metrics: Mapping[str, float]
    time_ms: int
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class StudyStarted:
    """A search begins, or goes on."""

    time_ms: int


@dataclass(frozen=True)
class StudyEnded:
    """A search has ended; it may go on later."""

    status: StudyStatus
    time_ms: int


Event = (
    TrialStarted
    | EpochEnded
    | TrialScored
    | TrialEnded
    | TrialRequeued
    | Note
    | StudyProgress
    | StudyStarted
    | StudyEnded
)

KINDS: dict[str, type[Event]] = {
    "trial_started": TrialStarted,
    "epoch_ended": EpochEnded,
    "trial_scored": TrialScored,
    "trial_ended": TrialEnded,
    "trial_requeued": TrialRequeued,
    "note": Note,
    "study_progress": StudyProgress,
    "study_started": StudyStarted,
    "study_ended": StudyEnded,
}
_KIND_OF = {event: kind for kind, event in KINDS.items()}


def now_ms() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000


def encode(event: Event) -> str:
    """One line of JSON in ASCII; infinities and NaN are written as Python's json does."""
    return json.dumps({"kind": _KIND_OF[type(event)], **vars(event)}, default=dict)


def decode(text: str) -> Event:
    """The event that `encode` wrote.

    Raises:
        ValueError: for anything else.
    """
    values = json.loads(text)
    if not isinstance(values, dict):
        raise ValueError(f"an event is an object, not {text[:80]}")
    event_class = KINDS.get(str(values.pop("kind", None)))
    if event_class is None:
        raise ValueError(f"no kind of event: {text[:80]}")
    try:
        event = event_class(**values)
    except TypeError as error:  # a field is missing or unknown
        raise ValueError(str(error)) from None
    for item in fields(event_class):
        if not _IS_OF_TYPE[str(item.type)](getattr(event, item.name)):
            raise ValueError(f"`{item.name}` of {text[:80]} is no {item.type}")
    return event


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_float(value: Any) -> bool:
    return isinstance(value, float) or _is_int(value)


def _is_str(value: Any) -> bool:
    return isinstance(value, str)


def _is_scalar(value: Any) -> bool:
    return isinstance(value, bool | int | float | str)


def _is_mapping_to(is_of_type: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, dict) and all(map(is_of_type, value.values()))


_IS_OF_TYPE: dict[str, Callable[[Any], bool]] = {
    "int": _is_int,
    "str": _is_str,
    "float | None": lambda value: value is None or _is_float(value),
    "TrialState": lambda value: value in get_args(TrialState),
    "StudyStatus": lambda value: value in get_args(StudyStatus),
    "Mapping[str, str]": _is_mapping_to(_is_str),
    "Mapping[str, float]": _is_mapping_to(_is_float),
    "Mapping[str, Scalar | None]": _is_mapping_to(lambda value: value is None or _is_scalar(value)),
    "Mapping[str, Table]": _is_mapping_to(
        lambda value: isinstance(value, list) and all(map(_is_mapping_to(_is_scalar), value))
    ),
}
