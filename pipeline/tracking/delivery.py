"""A thread that takes MLflow's writes off the training path, and outlasts MLflow being away."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from pipeline.tracking.updates import RunUpdate, coalesce

_FIRST_BACKOFF_SEC, _MAX_BACKOFF_SEC = 0.25, 5.0


@dataclass(frozen=True)
class Report:
    """What did not reach MLflow when its delivery was closed.

    Args:
        num_pending: writes still waiting.
        refused: a message for each write that MLflow will never take.
        last_error: why the last attempt failed; empty when none did.
    """

    num_pending: int = 0
    refused: tuple[str, ...] = ()
    last_error: str = ""

    @property
    def complete(self) -> bool:
        return self.num_pending == 0 and not self.refused


class Delivery:
    """Sends writes in the order they came, joined to one call a run, until MLflow takes them.

    The queue is appended to at once, read without being emptied, and shortened after the writes
    were taken: a crash between the two sends some again, which a `RunUpdate` allows.

    Args:
        send: delivers one update, or raises.
        is_final: whether an error means that MLflow will never take that update.
        linger_sec: how long writes pile up before they are sent together.
    """

    def __init__(
        self,
        send: Callable[[RunUpdate], None],
        is_final: Callable[[Exception], bool],
        linger_sec: float = 0.5,
    ) -> None:
        self._send, self._is_final, self._linger_sec = send, is_final, linger_sec
        self._queue: deque[RunUpdate] = deque()
        self._refused: list[str] = []
        self._last_error = ""
        self._num_flushing = 0
        self._deadline = math.inf
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="mlflow-delivery", daemon=True)
        self._thread.start()

    def put(self, update: RunUpdate) -> None:
        """Takes a write; never blocks on MLflow and never raises."""
        with self._changed:
            self._queue.append(update)
            self._changed.notify_all()

    def flush(self, timeout_sec: float) -> bool:
        """Waits until MLflow has taken all writes so far; False if it has not in that time."""
        with self._changed:
            self._num_flushing += 1
            self._changed.notify_all()
            done = self._changed.wait_for(lambda: not self._queue, timeout_sec)
            self._num_flushing -= 1
        return done

    def close(self, timeout_sec: float) -> Report:
        """Delivers what waits, for so long at most, and reports what did not get through."""
        with self._changed:
            self._deadline = min(self._deadline, time.monotonic() + timeout_sec)
            self._changed.notify_all()
        self._thread.join(timeout_sec)
        with self._changed:
            return Report(len(self._queue), tuple(self._refused), self._last_error)

    @property
    def _closing(self) -> bool:
        return self._deadline < math.inf

    def _run(self) -> None:
        while batch := self._wait():
            if not all(self._deliver(update) for update in coalesce(batch)):
                return
            with self._changed:
                for _ in batch:
                    self._queue.popleft()
                self._changed.notify_all()

    def _wait(self) -> list[RunUpdate]:
        """All that waits, once something does and had time to pile up; empty after closing."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._closing)
            self._changed.wait_for(lambda: self._num_flushing or self._closing, self._linger_sec)
            return list(self._queue)

    def _deliver(self, update: RunUpdate) -> bool:
        """Tries until MLflow took or refused the update; False when the time is up."""
        backoff_sec = _FIRST_BACKOFF_SEC
        while time.monotonic() < self._deadline:
            try:
                self._send(update)
                return True
            except Exception as error:  # noqa: BLE001 - tracking must not end the search
                self._last_error = f"{type(error).__name__}: {error}"
                if self._is_final(error):
                    self._refused.append(self._last_error)
                    return True
            backoff_sec = self._pause(backoff_sec)
        return False

    def _pause(self, backoff_sec: float) -> float:
        """Waits before the next attempt, no longer than the first wait once it is closing."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._closing, backoff_sec):
                return min(2 * backoff_sec, _MAX_BACKOFF_SEC)
        time.sleep(min(backoff_sec, _FIRST_BACKOFF_SEC))
        return _FIRST_BACKOFF_SEC
