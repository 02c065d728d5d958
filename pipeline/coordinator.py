"""What a run does while its workers train: watch them, sweep, count, and show what happens."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextlib import suppress

from optuna.trial import TrialState

from pipeline.errors import UserError
from pipeline.events import (
    RESUMED_AFTER,
    EpochEnded,
    Event,
    Note,
    StudyProgress,
    TrialEnded,
    TrialRequeued,
    TrialStarted,
    now_ms,
)
from pipeline.interrupts import raise_if_lost
from pipeline.journal import JournalReader, JournalWriter
from pipeline.progress import View
from pipeline.retold import retell
from pipeline.standing import Standing
from pipeline.study.carried import is_carried
from pipeline.study.ledger import Ledger
from pipeline.study.patience import LAST_PATIENCE_SEC, StoreAwayError
from pipeline.study.patient_storage import SLOW_SEC
from pipeline.study.store import FINISHED, HISTORY, Swept
from pipeline.study.trials import overrides_of
from pipeline.words import show_metric
from pipeline.workers.pool import Death, Pool
from pipeline.workers.worker import EXIT_MISTAKE

TICK_SEC = 0.2
SWEEP_SEC = 5.0
COUNT_SEC = 1.0
"""So often the store is asked for the counts while nothing is heard from this run's workers."""
STOP_SEC = 6.0
"""How long workers have to give their trials back; the promise is ten seconds in all."""


class Coordinator:
    """Watches the workers of one run until none is left.

    Args:
        reader: of the study's journal, from where this run begins.
        when_started: called once, when all workers have been started; what it raises stops them.
        when_idle: called once, when a worker finds nothing more to do while others train on.
    """

    def __init__(
        self,
        ledger: Ledger,
        pool: Pool,
        journal: JournalWriter,
        reader: JournalReader,
        view: View,
        when_started: Callable[[], None] | None = None,
        when_idle: Callable[[], None] | None = None,
    ) -> None:
        self.ledger, self.pool, self.view = ledger, pool, view
        self._when_started, self._when_idle = when_started, when_idle
        self.journal, self.reader = journal, reader
        self._standing: Standing | None = None
        self._swept_at = time.monotonic()
        self._counted_at = -COUNT_SEC
        self._ticked_at = time.time()

    def watch(self) -> None:
        """Until the workers are done.

        Raises:
            UserError: a worker found a mistake that this process did not.
            RuntimeError: the workers end as soon as they are started.
            KeyboardInterrupt: after the trials that ran have been given back.
        """
        try:
            self.pool.start()
            if self._when_started is not None:
                self._when_started()
                self._ticked_at = time.time()
            while self.pool.num_workers:
                raise_if_lost()
                self._tick()
                time.sleep(TICK_SEC)
        except KeyboardInterrupt as stop:
            self.ledger.store.let_go(stop)
            raise
        except BaseException:  # a store that is locked or away must not keep anybody now
            self.ledger.store.patience_sec = LAST_PATIENCE_SEC
            raise
        finally:
            self.pool.stop(STOP_SEC)
            with suppress(StoreAwayError):
                self._sweep()
                self._show(count=True)

    def _tick(self) -> None:
        now = time.time()  # a clock that goes on while the machine, or this process, sleeps
        if now - self._ticked_at > SLOW_SEC + TICK_SEC:
            self.ledger.store.note_hindrance(-math.inf)
        self._ticked_at = now
        deaths = self.pool.reap()
        for death in deaths:
            self.view.note(f"{death.job.name} {death.text}")
        if deaths or time.monotonic() - self._swept_at > SWEEP_SEC:
            self._sweep()
        self._show()
        for death in deaths:
            if death.is_final:
                _raise(death)
        if self._when_idle is not None and self._has_idle_worker():
            self._when_idle()
            self._when_idle, self._ticked_at = None, time.time()

    def _has_idle_worker(self) -> bool:
        """Whether one finds nothing to do, and others do: it waits, as one of them may fail."""
        now, num_workers = self._standing, self.pool.num_workers
        if self.pool.num_done:  # such as when there was no time left for another trial
            return num_workers > 0
        return now is not None and now.is_claimed and 0 < now.running < num_workers

    def _sweep(self) -> None:
        self._swept_at = time.monotonic()
        for swept in self.ledger.sweep():
            self.journal.try_put(requeued(swept))

    def _show(self, *, count: bool = False) -> None:
        events = self.reader.read()
        for event in events:
            show(event, self.view, self.ledger.metric)
        recently = time.monotonic() - self._counted_at < COUNT_SEC
        if recently and not events and not count:
            return
        now, self._counted_at = standing(self.ledger), time.monotonic()
        before, self._standing = self._standing, now
        if now != before:
            self.view.study(now)
            self.journal.try_put(StudyProgress(now.ended, study_metrics(now), now_ms()))
            retell(self.ledger, self.journal)


def show(event: Event, view: View, metric: str) -> None:
    """Tell a view what happened in a study by this metric."""
    at = event.time_ms
    match event:
        case TrialStarted():
            view.trial_started(event)
            if event.attempt > 1:
                view.note(f"{event.name}: {_taken_up(event)}", at)
        case EpochEnded():
            view.epoch_ended(event)
        case TrialEnded():
            value = "" if event.value is None else f"{show_metric(metric, event.value)}, "
            text = f"{value}{event.reason}"
            view.trial_ended(event.trial, event.state, text, at)
        case TrialRequeued():
            view.trial_ended(event.trial, "WAITING", f"{event.reason}; it goes on later", at)
        case Note():
            view.note(event.text, at)


def _taken_up(event: TrialStarted) -> str:
    epoch = event.tags.get(RESUMED_AFTER)
    how = f"goes on after epoch {epoch}" if epoch else "begins again: no epoch of it was saved"
    return f"attempt {event.attempt}, {how}"


def standing(ledger: Ledger) -> Standing:
    """The study's counts and its best value, from its store."""
    every_trial = ledger.trials()
    trials = [trial for trial in every_trial if not is_carried(trial)]
    states = [trial.state for trial in trials]
    best = ledger.best() if ledger.kind == "study" else None  # see `Standing.is_search`
    every = ledger.config.training.epochs
    allowed = {
        trial.number: int(overrides_of(trial).get("training.epochs", every))
        for trial in trials
        if trial.state in FINISHED
    }
    saved = sum(
        allowed[trial.number] - max(trial.intermediate_values, default=0)
        for trial in trials
        if trial.state == TrialState.PRUNED
    )
    finished = states.count(TrialState.COMPLETE) + states.count(TrialState.PRUNED)
    return Standing(
        target=max(ledger.target, finished),  # it may have been lowered since
        complete=states.count(TrialState.COMPLETE),
        pruned=states.count(TrialState.PRUNED),
        failed=states.count(TrialState.FAIL),
        interrupted=sum(bool(trial.user_attrs.get(HISTORY)) for trial in trials),
        metric=ledger.metric,
        best_value=None if best is None else best.value,
        best_trial=None if best is None else best.number,
        saved_epochs=saved,
        allowed_epochs=sum(allowed.values()),
        carried=len(every_trial) - len(trials),
        missed=ledger.nearest_miss(),
        front=len(ledger.front()) if len(ledger.objectives) > 1 else 0,
        kind=ledger.kind,
        running=states.count(TrialState.RUNNING),
    )


def study_metrics(now: Standing) -> Mapping[str, float]:
    """The study's own curves in MLflow."""
    counts = {
        "trials/complete": float(now.complete),
        "trials/pruned": float(now.pruned),
        "trials/failed": float(now.failed),
        "pruning/epochs_saved": now.saved_share,
    }
    best = {} if now.best_value is None else {f"best/{now.metric}": now.best_value}
    front = {"pareto/front_trials": float(now.front)} if now.front else {}
    return counts | best | front


def requeued(swept: Swept) -> Event:
    """What is written down about a swept trial."""
    if swept.state == TrialState.FAIL:
        return TrialEnded(swept.number, swept.attempt, "FAIL", swept.reason, None, now_ms())
    return TrialRequeued(swept.number, swept.attempt, swept.reason, now_ms())


def _raise(death: Death) -> None:
    words = death.last_words()
    if death.exit_code == EXIT_MISTAKE:
        raise UserError(words)
    raise RuntimeError(f"{death.job.name} {death.text}\n{words}")
