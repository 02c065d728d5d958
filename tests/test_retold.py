"""Tags that other trials change: what is said of a trial before the baselines have ended."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest

from pipeline import retold
from pipeline.events import TrialScored
from pipeline.journal import JournalReader, JournalWriter
from pipeline.study.claim import Claim
from pipeline.study.ledger import Ledger
from pipeline.study.store import SCORED
from tests.test_ledger import claimed, open_ledger

Told = Callable[[], dict[int, str]]


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return open_ledger(tmp_path)


@pytest.fixture
def told(ledger: Ledger, tmp_path: Path) -> Told:
    """The diagnoses that are written down by now and were not before, by trial."""
    reader = JournalReader(tmp_path / "journal")

    def retell() -> dict[int, str]:
        with closing(JournalWriter(tmp_path / "journal")) as journal:
            retold.retell(ledger, journal)
        scored = [event for event in reader.read() if isinstance(event, TrialScored)]
        return {event.trial: event.tags["regsearch.diagnosis"] for event in scored}

    return retell


def end(ledger: Ledger, claim: Claim, train: float, validation: float) -> None:
    """A trial is complete, with these accuracies."""
    scores = {"epoch": 2, "train/clean_accuracy": train, "validation/accuracy": validation}
    ledger.complete(claim, validation, {SCORED: scores})


def test_a_trial_that_ended_before_the_unregularized_one_is_judged_again(
    ledger: Ledger, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, recipe, third = claimed(ledger), claimed(ledger), claimed(ledger)
    end(ledger, recipe, 0.1, 0.1)  # chance: but what this net can fit is not known yet
    assert told() == {}
    end(ledger, plain, 0.95, 0.92)
    assert told() == {0: "healthy", 1: "underfitting"}
    assert told() == {}
    end(ledger, third, 0.8, 0.79)  # so soon that its worker may not have known of the baseline
    assert told() == {2: "underfitting"}
    assert told() == {}
    monkeypatch.setattr(retold, "AT_ONCE", timedelta())
    end(ledger, claimed(ledger), 0.8, 0.79)
    assert told() == {}


def test_what_a_study_kept_of_it_before_is_told_again(ledger: Ledger, told: Told) -> None:
    end(ledger, claimed(ledger), 0.95, 0.92)
    ledger.keep("diagnosed", 1)  # so many, as it was
    assert told() == {0: "healthy"}
    assert told() == {}


def test_the_unregularized_net_is_not_held_against_itself(ledger: Ledger, told: Told) -> None:
    end(ledger, claimed(ledger), 0.5, 0.5)
    assert told() == {0: "healthy"}
