"""Threads and precision: measured once, and worth what they cost."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipeline.calibration import calibrate, fastest, together
from tests.test_ledger import open_ledger


def test_a_further_thread_must_be_worth_a_tenth_more() -> None:
    assert fastest({1: 100.0, 2: 109.0, 4: 105.0}) == 1
    assert fastest({1: 100.0, 2: 150.0, 4: 160.0}) == 2
    assert fastest({1: 100.0, 2: 150.0, 4: 170.0}) == 4
    assert fastest({1: 1000.0, 4: 30.0}) == 1


def test_workers_side_by_side_keep_85_per_cent_of_their_speed() -> None:
    # Four of one thread: 4 x 100 x 0.85. Two of two: 2 x 180 x 0.85. One of four has it all.
    assert together({1: 100.0, 2: 180.0, 4: 300.0}, cores=4) == {1: 340.0, 2: 306.0, 4: 300.0}


def test_a_given_number_of_workers_shares_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """With two workers on four cores, four threads each are not tried."""
    tried = set()

    def rate(_: object, threads: int) -> float:
        tried.add(threads)
        return 100.0 * threads

    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    monkeypatch.setattr("pipeline.calibration._images_per_sec", rate)
    assert calibrate(lambda _: None, num_workers=2).threads == 2  # type: ignore[arg-type, return-value]
    assert tried == {1, 2}


def test_a_stall_in_one_round_decides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rates = {1: iter([100.0, 100.0, 100.0]), 2: iter([3.0, 290.0, 3.0]), 4: iter([5.0, 5.0, 5.0])}
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    monkeypatch.setattr(
        "pipeline.calibration._images_per_sec", lambda _, threads: next(rates[threads])
    )
    assert calibrate(lambda _: None).threads == 2  # type: ignore[arg-type, return-value]


def test_the_users_own_number_of_threads_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert calibrate(lambda _: pytest.fail("measured")).threads == 3


def test_a_study_keeps_what_it_began_with(tmp_path: Path) -> None:
    first = open_ledger(tmp_path).fixed("calibration", lambda: {"threads": 2})
    assert first == {"threads": 2}
    assert open_ledger(tmp_path).fixed("calibration", lambda: {"threads": 4}) == first
