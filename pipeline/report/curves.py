"""What a study's journal tells beyond its store: all curves, and who ran what when."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from optuna.trial import FrozenTrial

from pipeline.events import (
    EpochEnded,
    Event,
    StudyEnded,
    TrialEnded,
    TrialRequeued,
    TrialStarted,
    now_ms,
)
from pipeline.journal import JournalReader, journal_folder
from pipeline.study.ledger import Ledger
from pipeline.study.owner import describe_owner
from pipeline.study.store import OWNER

Curves = Mapping[int, Mapping[str, Mapping[int, float]]]
"""Trial's number -> metric -> epoch -> value."""


@dataclass(frozen=True)
class Attempt:
    """A stretch of time in which a worker ran a trial.

    Attributes:
        state: how it ended: COMPLETE, PRUNED, FAIL, WAITING (given back or killed) or RUNNING.
        started_ms, ended_ms: milliseconds since 1970.
    """

    worker: str
    name: str
    state: str
    started_ms: int
    ended_ms: int


def read_events(ledger: Ledger) -> list[Event]:
    """All that its journal says; nothing where the journal is not in this folder."""
    try:
        return JournalReader(journal_folder(ledger.uuid)).read()
    except OSError:
        return []


def curves(events: Iterable[Event], ledger: Ledger) -> Curves:
    """Every trial's curves. The first attempt to reach an epoch is right, as it is in MLflow; what
    the journal lacks of the study's metric, the store has."""
    found: dict[int, dict[str, dict[int, float]]] = {}
    for event in events:
        if isinstance(event, EpochEnded):
            for metric, value in event.metrics.items():
                of_trial = found.setdefault(event.trial, {})
                of_trial.setdefault(metric, {}).setdefault(event.epoch, value)
    for trial in ledger.trials():
        reported = found.setdefault(trial.number, {}).setdefault(ledger.config.study.metric, {})
        for epoch, value in trial.intermediate_values.items():
            reported.setdefault(epoch, value)
    return found


def attempts(events: Iterable[Event], ledger: Ledger) -> list[Attempt]:
    """Who ran which trial when, by the journal; by the store where there is no journal, which
    knows the last attempt of each trial alone."""
    trials = {trial.number: trial for trial in ledger.trials()}
    begun: dict[int, TrialStarted] = {}
    found: list[Attempt] = []
    for event in events:
        if isinstance(event, TrialStarted):
            begun[event.trial] = event
        elif isinstance(event, TrialEnded | TrialRequeued):
            state = "WAITING" if isinstance(event, TrialRequeued) else event.state
            start = begun.get(event.trial)
            if start is not None and start.attempt == event.attempt:
                found.append(_attempt(begun.pop(event.trial), state, event.time_ms))
        elif isinstance(event, StudyEnded):  # whoever was still at work by then was killed
            alive = {n for n, t in trials.items() if not t.state.is_finished()}
            for number in [n for n in begun if n not in alive]:
                del begun[number]
    found += [
        _attempt(start, trials[number].state.name, now_ms())
        for number, start in begun.items()
        if number in trials and trials[number].state.name == "RUNNING"
    ]
    return found or [a for trial in trials.values() if (a := _stored(trial, ledger))]


def sessions(spans: Mapping[str, Sequence[Attempt]]) -> list[dict[str, list[Attempt]]]:
    """The attempts of each kind, split where nobody worked for longer than half of the time that
    was worked, and for a minute at least: a night's pause would leave no width for the work."""
    ordered = sorted(
        ((kind, one) for kind, of_kind in spans.items() for one in of_kind),
        key=lambda pair: pair[1].started_ms,
    )
    longest = max(60_000, sum(one.ended_ms - one.started_ms for _, one in ordered) / 2)
    found: list[dict[str, list[Attempt]]] = []
    ended = 0
    for kind, one in ordered:
        if not found or one.started_ms - ended > longest:
            found.append({})
        found[-1].setdefault(kind, []).append(one)
        ended = max(ended, one.ended_ms)
    return found


def _attempt(start: TrialStarted, state: str, ended_ms: int) -> Attempt:
    name = start.name or f"trial {start.trial}"
    return Attempt(start.worker or "worker", name, state, start.time_ms, ended_ms)


def _stored(trial: FrozenTrial, ledger: Ledger) -> Attempt | None:
    owner = str(trial.user_attrs.get(OWNER, ""))
    if trial.datetime_start is None or not owner:
        return None
    ended = now_ms() if trial.datetime_complete is None else _ms(trial.datetime_complete)
    worker, name = describe_owner(owner), ledger.name_of(trial)
    return Attempt(worker, name, trial.state.name, _ms(trial.datetime_start), ended)


def _ms(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)
