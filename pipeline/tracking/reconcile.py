"""MLflow made to agree with the study's store, once it has taken what the journal says."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, cast

from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from pipeline.errors import redact
from pipeline.events import (
    EpochEnded,
    Event,
    Table,
    TrialEnded,
    TrialRequeued,
    TrialScored,
    TrialStarted,
    TrialState,
    now_ms,
)
from pipeline.journal import JournalReader
from pipeline.settings import Scalar
from pipeline.tracking.finding import find_runs
from pipeline.tracking.mirror import Mirror
from pipeline.tracking.runs import trials_identity
from pipeline.tracking.store import is_final
from pipeline.tracking.tables import logged_tables
from pipeline.tracking.updates import (
    SETTLED,
    STATUS_OF,
    RunUpdate,
    Standing,
    coalesce,
    to_updates,
)

_NEW_MS = 60_000

StoredState = Literal["WAITING", "RUNNING", "COMPLETE", "PRUNED", "FAIL"]


@dataclass(frozen=True, kw_only=True)
class TrialRecord:
    """A trial as the study's store has it, which is the authority.

    Args:
        attempt: how often it was begun.
        name, params, tags: as in `TrialStarted`.
        metric: the name of the study's metric.
        curve: epoch, from 1 -> the value of that metric.
        tables: as in `TrialScored`.
        started_ms, ended_ms: milliseconds since 1970, where that has happened.
    """

    number: int
    attempt: int
    state: StoredState
    name: str
    params: Mapping[str, Scalar | None]
    tags: Mapping[str, str] = field(default_factory=dict)
    metric: str
    curve: Mapping[int, float] = field(default_factory=dict)
    tables: Mapping[str, Table] = field(default_factory=dict)
    reason: str = ""
    started_ms: int | None = None
    ended_ms: int | None = None


@dataclass(frozen=True)
class Finding:
    """Something that is not as it should be, in words, and whether it was mended, or can be here:
    what can't says who mends it."""

    text: str
    fixed: bool
    mendable: bool = True


Reconciled = list[Finding]


def reconcile(mirror: Mirror, trials: Sequence[TrialRecord], *, fix: bool = True) -> Reconciled:
    """Compares MLflow's runs with the store's trials, and mends what differs.

    A missing run, or one whose curve has gaps, is filled from the journal and then from the record.
    Runs of trials that the store does not know, and all but the oldest of several runs of a trial,
    are deleted; `mlflow gc` would remove them for good, until then they can be restored.

    Args:
        trials: all trials of the study, read within the last minute.
        fix: mend it, rather than only tell.

    Returns:
        What was not as it should be; MLflow being away is one of those.
    """
    try:
        return list(_Comparison(mirror, fix).of(trials))
    except (MlflowException, OSError) as error:
        return [Finding(f"MLflow could not be compared: {redact(str(error))}", fixed=False)]


class _Comparison:
    def __init__(self, mirror: Mirror, fix: bool) -> None:
        self.mirror, self.fix = mirror, fix
        self.runs = mirror.runs()

    @cached_property
    def told(self) -> dict[int | None, RunUpdate]:
        """What the whole journal says of each run."""
        events = JournalReader(self.mirror.journal).read()
        return {update.trial: update for update in coalesce(to_updates(events))}

    def of(self, trials: Sequence[TrialRecord]) -> Iterator[Finding]:
        runs: dict[int | None, list[Run]] = {}
        identity = trials_identity(self.mirror.run_id)
        for run in find_runs(self.mirror.client, self.mirror.experiment_id, identity):
            runs.setdefault(_number(run), []).append(run)
        known = {trial.number for trial in trials}
        for number, of_one in runs.items():
            if number in known:
                yield from self._duplicates(number, of_one[1:])
            else:
                yield from self._orphans(number, of_one)
        for trial in trials:
            yield from self._trial(trial, runs.get(trial.number, [None])[0])

    def _duplicates(self, number: int | None, runs: Iterable[Run]) -> Iterator[Finding]:
        for run in runs:
            yield self._delete(run, f"trial {number} has one more run, {run.info.run_id}")

    def _orphans(self, number: int | None, runs: Iterable[Run]) -> Iterator[Finding]:
        """A trial that began since the trials were read is none."""
        for run in runs:
            if now_ms() - run.info.start_time > _NEW_MS:
                text = f"run {run.info.run_id} is of trial {number}, which the study does not have"
                yield self._delete(run, text)

    def _delete(self, run: Run, text: str) -> Finding:
        if self.fix:
            self.mirror.client.delete_run(run.info.run_id)
        return Finding(text, self.fix)

    def _trial(self, trial: TrialRecord, run: Run | None) -> Iterator[Finding]:
        if trial.state == "RUNNING" or (run is None and trial.state == "WAITING"):
            return
        faults = ["it has no run"] if run is None else list(self._faults(trial, run))
        if not faults:
            return
        text = f"trial {trial.number}: {', '.join(faults)}"
        if not self.fix:
            yield Finding(text, fixed=False)
            return
        try:
            self._mend(trial)
        except MlflowException as error:
            if not is_final(error):
                raise
            yield Finding(f"{text}; MLflow refuses: {redact(str(error))}", fixed=False)
        else:
            yield Finding(text, fixed=True)

    def _faults(self, trial: TrialRecord, run: Run) -> Iterator[str]:
        """What a run lacks; one that tells of a later attempt is ahead of the record."""
        tags = run.data.tags
        if Standing.of_run(tags).attempt > trial.attempt:
            return
        waits = trial.state == "WAITING"
        status = "KILLED" if waits else STATUS_OF[cast(TrialState, trial.state)]
        if run.info.status != status or tags.get("regsearch.state") != trial.state:
            told = f"{run.info.status} ({tags.get('regsearch.state', 'of unknown state')})"
            yield f"its run is {told}, the trial is {trial.state}"
        if not waits and not trial.params.keys() <= run.data.params.keys():
            yield "its run lacks parameters"
        if not waits and self._lacks_points(trial, run):
            yield f"its run lacks epochs of {trial.metric}"
        if missing := [name for name in trial.tables if name not in logged_tables(tags)]:
            yield f"its run lacks {', '.join(missing)}"

    def _lacks_points(self, trial: TrialRecord, run: Run) -> bool:
        """By the last value, which comes with the run; by the whole curve if that differs."""
        epochs = {epoch for epoch, value in trial.curve.items() if math.isfinite(value)}
        last = trial.curve[max(epochs)] if epochs else None
        if last is None or run.data.metrics.get(trial.metric) == last:
            return False
        history = self.mirror.client.get_metric_history(run.info.run_id, trial.metric)
        return bool(epochs - {point.step for point in history})

    def _mend(self, trial: TrialRecord) -> None:
        """With all that the journal knows, except how the attempt ended: the store knows better."""
        told = [update for update in [self.told.get(trial.number)] if update]
        beyond = Standing(trial.attempt, step=SETTLED)
        [update] = coalesce(
            [*(update.seen_from(beyond) for update in told), *to_updates(_events(trial))]
        )
        self.runs.send(update, settled=True)


def _number(run: Run) -> int | None:
    number = run.data.tags.get("regsearch.trial", "")
    return int(number) if number.isdecimal() else None


def _events(trial: TrialRecord) -> Iterator[Event]:
    """What a journal would say of the trial; when each epoch ended, the store does not know."""
    number, attempt = trial.number, trial.attempt
    ended_ms = trial.ended_ms or now_ms()
    if trial.state == "WAITING":
        yield TrialRequeued(number, attempt, trial.reason, ended_ms)
        return
    started_ms = trial.started_ms or ended_ms
    num_epochs = max(trial.curve, default=0)
    yield TrialStarted(
        number, attempt, "", trial.name, trial.params, num_epochs, started_ms, trial.tags
    )
    for epoch, value in sorted(trial.curve.items()):
        yield EpochEnded(number, attempt, epoch, {trial.metric: value}, ended_ms)
    if trial.tables:
        yield TrialScored(number, attempt, num_epochs, {}, {}, ended_ms, trial.tables)
    state = cast(TrialState, trial.state)
    yield TrialEnded(number, attempt, state, trial.reason, None, ended_ms)
