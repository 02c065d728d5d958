"""Contract rows 7, 8, 9 and 32: many processes on one store, on SQLite and PostgreSQL."""

from __future__ import annotations

import os
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from pipeline.study.ledger import Ledger
from pipeline.study.storage import open_storage
from pipeline.study.store import HISTORY
from tests.faults.conftest import StoreUrl
from tests.faults.players import Player, at_once, players
from tests.spaces import tiny_config


def rounds(most: int) -> list[Any]:
    """One round, or in the slow tests so many."""
    return [1, pytest.param(most, marks=pytest.mark.slow)]


def numbers_and_states(url: str) -> tuple[list[int], Counter[str]]:
    with closing(open_storage(url)) as store:
        trials = optuna.load_study(study_name="tiny", storage=store).get_trials()
    return [trial.number for trial in trials], Counter(trial.state.name for trial in trials)


@pytest.mark.parametrize("num_rounds", rounds(10))
def test_row_9_first_start_of_eight_processes(
    store_url: StoreUrl, team: list[Player], num_rounds: int
) -> None:
    """All start, agree on one study, and queue its two baselines once."""
    for _ in range(num_rounds):
        url = store_url()
        assert len(set(at_once(team, do="open", url=url))) == 1
        assert numbers_and_states(url) == ([0, 1], Counter(WAITING=2))


def settings(trials: int) -> dict[str, Any]:
    return {"study.trials": trials, "study.sampler.kind": "random"}


def books(url: str, folder: Path, trials: int) -> Ledger:
    given = (f"{key}={value}" for key, value in settings(trials).items())
    return Ledger(tiny_config(folder, *given), open_storage(url))


@pytest.mark.parametrize(
    ("num_rounds", "trials"), [(1, 60), pytest.param(3, 200, marks=pytest.mark.slow)]
)
def test_row_7_eight_workers_claim_each_queued_trial_once(
    store_url: StoreUrl, team: list[Player], tmp_path: Path, num_rounds: int, trials: int
) -> None:
    for _ in range(num_rounds):
        url = store_url()
        ledger = books(url, tmp_path, trials)
        for i in range(trials - 2):  # the baselines are two
            ledger.study.enqueue_trial({"regularization.dropout": i / 400})
        ledger.store.close()
        answers = at_once(team, do="drain", url=url, settings=settings(trials))
        done = sorted(number for answer in answers for number in answer["done"])
        assert done == list(range(trials))
        assert numbers_and_states(url) == (list(range(trials)), Counter(COMPLETE=trials))


@pytest.mark.parametrize("trials", [20, pytest.param(300, marks=pytest.mark.slow)])
def test_row_32_eight_workers_finish_exactly_so_many_trials(
    store_url: StoreUrl, team: list[Player], trials: int
) -> None:
    url = store_url()
    answers = at_once(team, do="drain", url=url, settings=settings(trials), epochs=1)
    done = sorted(number for answer in answers for number in answer["done"])
    assert done == list(range(trials))
    assert numbers_and_states(url) == (list(range(trials)), Counter(COMPLETE=trials))


def test_row_8_eight_sweepers_give_each_of_30_stale_trials_one_more_attempt(
    store_url: StoreUrl, team: list[Player], tmp_path: Path
) -> None:
    url = store_url()
    with players(1) as (victim,):
        held = victim.ask(do="claim", url=url, settings=settings(30), count=30)
        assert held == list(range(30))
        os.kill(victim.process.pid, 9)
        victim.process.wait()
    swept = at_once(team, do="sweep", url=url, settings=settings(30))
    assert sorted(number for numbers in swept for number in numbers) == list(range(30))
    ledger = books(url, tmp_path, 30)
    waiting = ledger.trials(TrialState.WAITING)
    ledger.store.close()
    assert [trial.number for trial in waiting] == list(range(30))
    assert all(len(trial.user_attrs[HISTORY]) == 1 for trial in waiting)
