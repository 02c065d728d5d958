"""Contract rows 5, 6, 13 and 28: frozen workers, a locked store, and clocks."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.faults.conftest import StoreUrl
from tests.faults.players import Player, players

LOCK = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=30)
connection.execute("BEGIN EXCLUSIVE")
print("locked", flush=True)
time.sleep(float(sys.argv[2]))
connection.execute("COMMIT")
"""


@contextmanager
def locked(path: Path, seconds: float) -> Iterator[None]:
    """Another program holds the whole database for so long; inside, it has it."""
    command = [sys.executable, "-c", LOCK, str(path), str(seconds)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "locked\n"
    yield
    assert process.wait() == 0
    process.stdout.close()


def test_row_5_a_frozen_worker_that_wakes_up_drops_its_result(store_url: StoreUrl) -> None:
    command: dict[str, Any] = {"url": store_url(), "settings": {"study.grace_sec": 1.0}}
    with players(2) as (frozen, other):
        assert frozen.ask(do="claim", count=1, **command) == [0]
        os.kill(frozen.process.pid, signal.SIGSTOP)
        deadline = time.monotonic() + 30
        while not (swept := other.ask(do="sweep", **command)):
            assert time.monotonic() < deadline
            time.sleep(0.2)
        assert swept == [0]
        assert other.ask(do="claim", count=1, **command) == [0]
        os.kill(frozen.process.pid, signal.SIGCONT)
        assert frozen.ask(do="finish", value=0.99) == "ClaimLostError"
        assert frozen.ask(do="claim", count=1, **command) == [1]  # and goes on with a new one
        assert other.ask(do="finish", value=0.5) == ""
    assert values(command["url"]) == {0: 0.5}


def values(url: str) -> dict[int, float | None]:
    import optuna

    from pipeline.study.storage import open_storage

    with closing(open_storage(url)) as store:
        trials = optuna.load_study(study_name="tiny", storage=store).get_trials()
    return {trial.number: trial.value for trial in trials if trial.values}


@pytest.mark.parametrize(
    "seconds",
    [pytest.param(6.5, id="row 6"), pytest.param(30, id="row 13", marks=pytest.mark.slow)],
)
def test_a_locked_store_is_waited_for_and_nobody_is_called_stale(
    tmp_path: Path, seconds: float
) -> None:
    """The grace period is shorter than the lock: who could not write is not called silent."""
    settings = {"study.grace_sec": 5.0}
    command: dict[str, Any] = {"url": f"sqlite:///{tmp_path}/optuna.db", "settings": settings}
    with players(2) as (worker, sweeper):
        worker.ask(do="claim", count=1, **command)
        with locked(tmp_path / "optuna.db", seconds):
            worker.tell(do="beat", seconds=seconds + 1)
            assert sweeper.ask(do="sweep", **command) == []  # once it can: it waits too
        assert worker.answer() > seconds / 2  # its beat did wait
        assert sweeper.ask(do="sweep", **command) == []
        assert worker.ask(do="finish", value=0.5) == ""
    assert values(command["url"]) == {0: 0.5}


def test_row_28_ages_do_not_depend_on_a_workers_time_zone(store_url: StoreUrl) -> None:
    command: dict[str, Any] = {"url": store_url(), "settings": {"study.grace_sec": 60.0}}
    tokyo = Player(TZ="Asia/Tokyo", PGTZ="Asia/Tokyo")
    los_angeles = Player(TZ="America/Los_Angeles", PGTZ="America/Los_Angeles")
    try:
        assert tokyo.ask(do="claim", count=1, **command) == [0]
        assert los_angeles.ask(do="claim", count=1, **command) == [1]
        assert los_angeles.ask(do="sweep", **command) == []
        assert tokyo.ask(do="sweep", **command) == []
    finally:
        tokyo.close()
        los_angeles.close()


def test_sqlite_is_what_is_locked(tmp_path: Path) -> None:
    """That the lock of these tests does lock."""
    path = tmp_path / "x.db"
    sqlite3.connect(path).execute("CREATE TABLE t (x)").connection.close()
    with locked(path, 1.0):
        connection = sqlite3.connect(path, timeout=0.1, isolation_level=None)
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            connection.execute("BEGIN IMMEDIATE")
        connection.close()
