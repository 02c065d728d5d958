"""Finished trials are known as soon as anybody has finished them, and the running ones unread."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from pipeline.study.ledger import Ledger
from pipeline.study.store import Store
from tests.test_ledger import claimed, open_ledger

COMPLETE = TrialState.COMPLETE


def reads_of(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """Grows by one whenever trials are read from the store."""
    reads: list[None] = []
    read = Store._get_trials

    def note(store: Store, *args: Any, **kwargs: Any) -> Any:
        reads.append(None)
        return read(store, *args, **kwargs)

    monkeypatch.setattr(Store, "_get_trials", note)
    return reads


def values(ledger: Ledger, *states: TrialState) -> list[tuple[int, float | None]]:
    return [(trial.number, trial.value) for trial in ledger.trials(*states)]


def test_what_another_process_has_ended_is_known_at_once(tmp_path: Path) -> None:
    ours, theirs = open_ledger(tmp_path), open_ledger(tmp_path)
    first, second = claimed(theirs), claimed(theirs)
    assert values(ours, COMPLETE) == []
    theirs.complete(second, 0.5)
    assert values(ours, COMPLETE) == [(1, 0.5)]
    third = claimed(theirs)
    theirs.complete(third, 0.7)  # begun after the last that is known
    theirs.fail(first, "a fault")  # begun before it
    assert values(ours, COMPLETE) == [(1, 0.5), (2, 0.7)]
    assert [trial.number for trial in ours.trials(TrialState.FAIL)] == [0]


def test_reports_of_running_trials_have_none_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = open_ledger(tmp_path)
    ledger.complete(claimed(ledger), 0.5)
    running = claimed(ledger)
    assert values(ledger, COMPLETE) == [(0, 0.5)]
    reads = reads_of(monkeypatch)
    for epoch in range(1, 6):
        ledger.report(running, epoch, 0.1)
        assert values(ledger, COMPLETE, TrialState.PRUNED) == [(0, 0.5)]
    assert reads == []
    [seen] = ledger.trials(TrialState.RUNNING)
    assert len(seen.intermediate_values) == 5
    assert len(reads) == 1


def test_what_is_handed_out_as_a_copy_is_one(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    ledger.complete(claimed(ledger), 0.5)
    ledger.trials(COMPLETE)
    [copied] = ledger.study.get_trials(deepcopy=True, states=(COMPLETE,))
    copied.user_attrs["mine"] = 1
    assert "mine" not in ledger.trials(COMPLETE)[0].user_attrs
