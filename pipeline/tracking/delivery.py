"""A thread that takes a study's journal to MLflow, and outlasts MLflow being away."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import redact
from pipeline.journal import JournalReader
from pipeline.tracking.positions import load_positions, save_positions
from pipeline.tracking.updates import RunUpdate, coalesce, to_updates

_FIRST_BACKOFF_SEC, _MAX_BACKOFF_SEC = 0.25, 5.0
_SILENCE_SEC = 5.0


@dataclass(frozen=True)
class Report:
    """What did not reach MLflow when its delivery was closed.

    Args:
        num_pending: events that the journal holds and MLflow has not taken.
        refused: a message for each write that MLflow will never take.
        last_error: why the last attempt that failed did; empty when none failed.
        num_damaged: lines of the journal that could not be read.
    """

    num_pending: int = 0
    refused: tuple[str, ...] = ()
    last_error: str = ""
    num_damaged: int = 0

    @property
    def complete(self) -> bool:
        return self.num_pending == 0 and not self.refused


class Delivery:
    """Sends what the journal says, joined to one update a run, until MLflow takes it.

    How far it came is saved once MLflow has taken all that was read: a crash before that sends
    some again, which a `RunUpdate` allows. No method waits for MLflow longer than it is told.

    Args:
        journal: the journal's folder.
        saved: the file that remembers how far this MLflow store is.
        send: delivers one update, or raises.
        is_final: whether an error means that MLflow will never take that update.
        poll_sec: how often the journal is looked at, and so how long events pile up.
    """

    def __init__(
        self,
        journal: Path,
        saved: Path,
        send: Callable[[RunUpdate], None],
        is_final: Callable[[Exception], bool],
        poll_sec: float = 0.3,
    ) -> None:
        self._journal, self._saved = journal, saved
        self._send, self._is_final, self._poll_sec = send, is_final, poll_sec
        self._reader = JournalReader(journal, load_positions(saved))
        self._delivered = self._remembered = self._reader.positions
        self._pending: dict[int | None, RunUpdate] = {}
        self._refused: dict[str, None] = {}  # each message once, in order
        self._last_error = ""
        self._failing = False
        self._heard_at = time.monotonic()
        self._num_asked = self._num_answered = 0
        self._deadline = math.inf
        self._ended = True  # until it starts
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="mlflow-delivery", daemon=True)

    def start(self) -> None:
        """Begins to deliver."""
        self._ended = False
        self._thread.start()

    def flush(self, timeout_sec: float) -> bool:
        """Waits until all that the journal holds now is taken; False if it is not in that time."""
        with self._changed:
            self._num_asked += 1
            asked = self._num_asked
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._num_answered >= asked or self._ended, timeout_sec)
            return self._num_answered >= asked

    @property
    def gets_on(self) -> bool:
        """Whether the last write was answered, and nothing has waited for an answer for long."""
        return not self._failing and time.monotonic() - self._heard_at < _SILENCE_SEC

    def close(self, timeout_sec: float) -> Report:
        """Delivers what is left, for so long at most, and reports what did not get through."""
        with self._changed:
            self._num_asked += 1
            asked = self._num_asked
            self._deadline = min(self._deadline, time.monotonic() + timeout_sec)
            self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join(timeout_sec)
        with self._changed:
            all_taken, delivered = self._num_answered >= asked, self._delivered
            refused, error = tuple(self._refused), self._last_error
        unread = JournalReader(self._journal, delivered)
        num_pending = 0 if all_taken else len(unread.read())
        return Report(num_pending, refused, error, self._reader.num_damaged)

    def _run(self) -> None:
        backoff_sec = _FIRST_BACKOFF_SEC
        while True:
            with self._changed:
                asked = self._num_asked
            done = self._deliver()
            with self._changed:
                if done:
                    self._num_answered, backoff_sec = asked, _FIRST_BACKOFF_SEC
                self._ended = self._is_over(done, asked)
                self._changed.notify_all()
                if self._ended:
                    return
                self._pause(done, asked, backoff_sec)
            backoff_sec = backoff_sec if done else min(2 * backoff_sec, _MAX_BACKOFF_SEC)

    def _is_over(self, done: bool, asked: int) -> bool:
        """Whether it is closed, and there is nothing left or no time."""
        if self._deadline == math.inf:
            return False
        return (done and asked == self._num_asked) or time.monotonic() >= self._deadline

    def _pause(self, done: bool, asked: int, backoff_sec: float) -> None:
        """Until the journal shall be looked at again; flushing and closing make it short."""
        if self._deadline < math.inf:
            backoff_sec = _FIRST_BACKOFF_SEC
        wait_sec = self._poll_sec if done else backoff_sec
        self._changed.wait_for(lambda: self._num_asked > asked, wait_sec)

    def _deliver(self) -> bool:
        """Whether all that the journal held is taken, or refused."""
        try:
            self._take()
        except OSError as error:  # the journal can't be read; what it holds counts as pending
            self._last_error = _message(error)
            return False
        for trial in list(self._pending):
            if not self._deliver_one(trial):
                return False
        self._delivered = self._reader.positions
        self._remember()
        return True

    def _take(self) -> None:
        """Joins what is new in the journal to what still waits."""
        news = to_updates(self._reader.read())
        self._pending = {u.trial: u for u in coalesce([*self._pending.values(), *news])}
        self._heard_at = time.monotonic()

    def _deliver_one(self, trial: int | None) -> bool:
        """False if MLflow is away, or the time is up."""
        if time.monotonic() >= self._deadline:
            return False
        update = self._pending.pop(trial)
        try:
            self._send(update)
        except Exception as error:  # noqa: BLE001 - tracking must not end the search
            self._last_error = _message(error)
            if not self._is_final(error):
                self._failing = True
                self._pending[trial] = update  # at the end: one run alone can't hold up all others
                return False
            with self._changed:
                self._refused[self._last_error] = None
        self._failing, self._heard_at = False, time.monotonic()
        return True

    def _remember(self) -> None:
        if self._delivered == self._remembered:
            return
        try:
            save_positions(self._saved, self._delivered)
        except OSError as error:  # tried again next time; the worst is that some is sent twice
            self._last_error = _message(error)
        else:
            self._remembered = self._delivered


def _message(error: Exception) -> str:
    return redact(f"{type(error).__name__}: {error}")
