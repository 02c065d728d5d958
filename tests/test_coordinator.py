"""What a run does while its workers train."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from pipeline import coordinator
from pipeline.events import EpochEnded, Event, Note, TrialEnded, TrialRequeued, TrialStarted
from pipeline.interrupts import interrupt, interruptible
from pipeline.progress import LogView


class Workers:
    """Stands for a pool whose workers are done at these looks."""

    def __init__(self, *num_left: int) -> None:
        self._left = list(num_left)
        self.num_workers, self.num_done = num_left[0], 0

    def start(self) -> None: ...

    def stop(self, timeout_sec: float) -> None: ...

    def reap(self) -> list[Any]:
        before, self.num_workers = self.num_workers, self._left.pop(0)
        self.num_done += before - self.num_workers
        return []


def test_what_is_shown_late_has_the_time_at_which_it_happened(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    told, hour_ms = io.StringIO(), 3_600_000
    events: list[Event] = [
        Note("a word", 1 * hour_ms),
        TrialStarted(6, 2, "worker 1", "trial 6", {}, 8, 2 * hour_ms),
        EpochEnded(6, 2, 1, {}, 3 * hour_ms),
        TrialEnded(6, 2, "PRUNED", "a reason", None, 4 * hour_ms),
        TrialRequeued(7, 1, "a reason", 5 * hour_ms),
    ]
    view = LogView(Console(file=told))
    for event in events:
        coordinator.show(event, view, "validation/loss")
    monkeypatch.undo()
    time.tzset()
    hours = [line[:8] for line in told.getvalue().splitlines()]
    assert hours == [f"0{hour}:00:00" for hour in (1, 2, 2, 3, 4, 5)]


@pytest.mark.parametrize(
    ("num_left", "at"), [((2, 2, 1, 1, 0), [1]), ((2, 0), []), ((1, 1, 0), []), ((3, 2, 1, 0), [2])]
)
def test_what_is_done_in_idle_moments_is_done_once_and_while_others_train(
    monkeypatch: pytest.MonkeyPatch, num_left: tuple[int, ...], at: list[int]
) -> None:
    pool, seen = Workers(*num_left), list[int]()
    watch(monkeypatch, pool, lambda: seen.append(pool.num_workers))
    assert seen == at


def test_an_interrupt_that_a_library_drops_ends_the_watch_at_the_next_look(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pool = Workers(2, 2, 2, 1, 0)

    def dropping() -> None:
        with suppress(KeyboardInterrupt):
            interrupt(KeyboardInterrupt)

    pool.num_done = 1  # so that there is an idle moment
    with pytest.raises(KeyboardInterrupt), interruptible():
        watch(monkeypatch, pool, dropping)
    assert pool.num_workers == 2


def test_what_takes_long_in_an_idle_moment_is_no_hindrance_of_the_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """That would forgive workers that are silent."""
    monkeypatch.setattr(coordinator, "SLOW_SEC", 0.2)
    hindrances = watch(monkeypatch, Workers(2, 1, 1, 0), lambda: time.sleep(0.3))
    assert hindrances == []


def watch(monkeypatch: pytest.MonkeyPatch, pool: Any, when_idle: Callable[[], None]) -> list[float]:
    """A coordinator's watch over this pool, with nothing to count or to show: what it noted of
    the machine."""
    hindrances: list[float] = []
    monkeypatch.setattr(coordinator, "TICK_SEC", 0.0)
    for part in ("_sweep", "_show"):
        monkeypatch.setattr(coordinator.Coordinator, part, lambda *_, **__: None)
    store = SimpleNamespace(note_hindrance=hindrances.append, let_go=print)
    given: Any = SimpleNamespace(note=print, store=store)
    coordinator.Coordinator(given, pool, given, given, given, None, when_idle).watch()
    return hindrances
