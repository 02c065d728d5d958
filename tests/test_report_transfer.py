"""The report on the transfer check: what it says of hand-made answers, and what is missing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from pipeline.answers import Answers
from pipeline.finalists import KIND
from pipeline.report.evidence import gather
from pipeline.report.figures.transfer import transfer_figure
from pipeline.report.html import render
from pipeline.report.sections.transfer import transfer_section
from pipeline.study.followup import ANSWERS, GROUP, FollowUp
from pipeline.study.ledger import Ledger
from pipeline.study.record import remember_settings
from pipeline.study.storage import open_storage
from pipeline.transfer import DATA, EPOCHS, transfer_points
from tests.conftest import enter
from tests.spaces import tiny_config
from tests.test_report import TWO, Page, searched

NUM_IMAGES = 40
SEARCHED = {"trial 2": 36, "trial 3": 30, "recipe": 24, "unregularized": 20}


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ledger]:
    """A study whose finalists tell so many of 40 images right, with either seed."""
    enter(monkeypatch, tmp_path)
    with final(tmp_path, SEARCHED) as found:
        yield found


@contextmanager
def final(folder: Path, right: Mapping[str, int]) -> Iterator[Ledger]:
    """A study of which the finalists tell so many images right."""
    store = open_storage(f"sqlite:///{folder}/optuna.db")
    found = Ledger(tiny_config(folder, *TWO), store)
    remember_settings(found)
    train(searched(found), right)
    yield found
    store.close()


def train(followup: FollowUp, right: Mapping[str, int], *, only: int | None = None) -> None:
    """All that is queued, or only so many of them."""
    while only is None or only > 0:
        claim = followup.claim()
        if claim is None:
            return
        correct = np.arange(NUM_IMAGES) < right[claim.tags[GROUP]]
        answers = Answers(correct, correct.astype(np.float32))
        followup.complete(claim, 0.5, {ANSWERS: answers.to_json()})
        only = None if only is None else only - 1


def check(ledger: Ledger, kind: str, right: Mapping[str, int], *, only: int | None = None) -> None:
    """One condition of the transfer check."""
    followup = FollowUp(ledger.config, ledger.store, kind)
    followup.add(transfer_points(ledger, kind))
    train(followup, right, only=only)


def told(ledger: Ledger) -> str:
    text = Page(render(gather(ledger))).text
    return text.partition("Each dot is a trial")[0].rpartition("The transfer check")[2]


def test_a_choice_that_holds_and_one_that_does_not(ledger: Ledger) -> None:
    check(ledger, EPOCHS, {**SEARCHED, "trial 2": 40})
    check(ledger, DATA, {**SEARCHED, "trial 2": 20, "trial 3": 40})
    text = told(ledger)
    assert "with 2 fresh seeds each, at twice the epochs and at half the training images" in text
    assert "on the same 40 selection images" in text
    assert "At twice the epochs: trial 2 is the best again: the choice carries over." in text
    # The two differ on half of the images: 2.5017 x 0.5064 / sqrt(40), of t with 39 degrees, in
    # which each of the winner's three gains has 5 % / 3 left.
    assert (
        "At half the training images: trial 3 is better than trial 2 (+50.00 ± 20.03): the choice "
        "does not carry over."
    ) in text
    assert "What trial 2 gains over no regularization, in points of accuracy: +40.00 ± " in text
    assert "as searched, +50.00 ± 20.03 at twice the epochs, +0.00 ± 0.00 at half" in text
    scores, gains, runs = transfer_section(gather(ledger)).tables
    assert [row.cells[0] for row in scores.rows] == [
        "trial 2 (winner)",
        "trial 3",
        "recipe",
        "unregularized",
    ]
    assert [cell.partition(" ")[0] for cell in scores.rows[0].cells[2:]] == ["100.00%", "50.00%"]
    assert [cell.partition(" ")[0] for cell in gains.rows[1].cells[1:]] == [
        "+25.00",
        "+25.00",
        "+50.00",
    ]
    assert gains.rows[3].cells == ("unregularized", "-", "-", "-")
    assert runs.folded


def test_a_choice_that_cant_be_told_from_the_best_carries_over(ledger: Ledger) -> None:
    check(ledger, EPOCHS, {**SEARCHED, "trial 3": 37})  # one image more
    assert (
        "At twice the epochs: trial 3 has the best mean, and trial 2 can't be told from it "
        "(+2.50 ± 6.25): the choice carries over as far as can be told."
    ) in told(ledger)


def test_the_figure_has_each_finalist_under_each_condition(ledger: Ledger) -> None:
    check(ledger, EPOCHS, {**SEARCHED, "recipe": 32})
    check(ledger, DATA, dict.fromkeys(SEARCHED, 10))
    transfers = gather(ledger).transfers
    figure = transfer_figure(transfers)
    assert list(figure.layout.yaxis.ticktext) == ["trial 2", "trial 3", "recipe", "unregularized"]
    shown = {trace.name: trace for trace in figure.data}
    assert list(shown["as searched"].x) == [0.9, 0.75, 0.6, 0.5]
    assert list(shown["at twice the epochs"].x) == [0.9, 0.75, 0.8, 0.5]
    assert list(shown["at half the training images"].x) == [0.25] * 4
    assert [round(row) for row in shown["at half the training images"].y] == [0, 1, 2, 3]
    winner = transfers[0].before.winner.selection
    assert winner
    assert shown["as searched"].error_x.array[0] == winner[1] > 0
    assert len({trace.marker.symbol for trace in figure.data}) == 3


def test_what_is_missing_is_said_with_the_command_that_trains_it(ledger: Ledger) -> None:
    command = "regsearch ablate tiny --transfer"
    assert f"Not done: {command} trains the finalists at twice the epochs" in told(ledger)
    check(ledger, EPOCHS, SEARCHED, only=3)
    text = told(ledger)
    assert f"At twice the epochs, 3 of 8 trainings are done: {command} goes on." in text
    assert f"Nothing is trained at half the training images yet: {command} goes on." in text
    assert "trial 3 is no finalist: 1 of its 2 trainings are missing" in text
    section = transfer_section(gather(ledger))
    assert section.tables[0].rows[0].cells[2].startswith("90.00%")  # trial 2 has both of its seeds
    assert section.tables[0].rows[1].cells[2] == "-"


def test_a_winner_that_is_not_trained_there_says_nothing_of_the_choice(ledger: Ledger) -> None:
    followup = FollowUp(ledger.config, ledger.store, DATA)
    followup.add([p for p in transfer_points(ledger, DATA) if p.group != "trial 2"])
    train(followup, SEARCHED)
    assert KIND in gather(ledger).followups
    text = told(ledger)
    assert "trial 2 is not trained, so that nothing is known of the choice" in text
    assert "trial 2 is no finalist: 2 of its 2 trainings are missing" in text
