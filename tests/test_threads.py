"""The number of threads: measured once, and worth what it costs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipeline.threads import choose_threads, fastest
from tests.test_ledger import open_ledger


def test_a_further_thread_must_be_worth_a_tenth_more() -> None:
    assert fastest({1: 100.0, 2: 109.0, 4: 105.0}) == 1
    assert fastest({1: 100.0, 2: 150.0, 4: 160.0}) == 2
    assert fastest({1: 100.0, 2: 150.0, 4: 170.0}) == 4
    assert fastest({1: 1000.0, 4: 30.0}) == 1


def test_the_users_own_count_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert choose_threads(lambda: pytest.fail("measured")) == 3


def test_a_study_keeps_the_count_it_began_with(tmp_path: Path) -> None:
    assert open_ledger(tmp_path).fixed_threads(lambda: 2) == 2
    assert open_ledger(tmp_path).fixed_threads(lambda: 4) == 2
