"""Which finalists' trainings decide, and until when."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from pipeline.answers import Answers
from pipeline.decision import EARLIER, choose, points, remember_final, verdict, verdict_on
from pipeline.study.followup import ANSWERS, FollowUp
from pipeline.study.ledger import Ledger
from pipeline.study.storage import open_storage
from pipeline.study.store import SCORED
from tests.spaces import TINY, tiny_config
from tests.test_ledger import claimed

TWO = ("finalists.count=2", "finalists.seeds=2", "study.trials=99")
GAP, ECE = "generalization_gap", "validation/ece"
NUM_IMAGES = 200


def searched(folder: Path, *values: float, text: str = TINY, gaps: Sequence[float] = ()) -> Ledger:
    """A search of complete trials, of which 0 and 1 are the baselines."""
    ledger = Ledger(tiny_config(folder, *TWO, text=text), open_storage(f"sqlite:///{folder}/o.db"))
    for index, value in enumerate(values):
        complete(ledger, value, gaps[index] if gaps else 0.0)
    return ledger


def complete(ledger: Ledger, value: float, gap: float = 0.0) -> None:
    ledger.complete(
        claimed(ledger),
        value,
        {SCORED: {"epoch": 1, "validation/accuracy": value, GAP: gap, ECE: 0.25}},
    )


def train(ledger: Ledger, right: dict[str, int], ece: dict[str, float] | None = None) -> FollowUp:
    """All finalists, each of which tells so many of 200 images right; those without fail."""
    followup, chosen = FollowUp(ledger.config, ledger.store, "finalists"), choose(ledger)
    followup.add(points(ledger, trials=chosen))
    while claim := followup.claim():
        group = claim.name.rpartition(", seed")[0]
        if group not in right:
            followup.fail(claim, "a reason")
            continue
        correct = np.arange(NUM_IMAGES) < right[group]
        answers = Answers(correct, correct.astype(np.float32))
        scored = {"epoch": 1, GAP: 0.0, "selection/ece": (ece or {}).get(group, 0.25)}
        followup.complete(claim, 0.5, {ANSWERS: answers.to_json(), SCORED: scored})
    remember_final(ledger, followup, chosen)
    return followup


RIGHT = {"unregularized": 100, "recipe": 150, "trial 2": 140, "trial 3": 160}


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    found = searched(tmp_path, 0.5, 0.6, 0.9, 0.8)
    yield found
    found.store.close()


def test_the_last_finals_verdict_stands_while_the_search_goes_on(ledger: Ledger) -> None:
    followup = train(ledger, RIGHT)
    first = verdict(ledger, followup)
    assert first
    assert (first.winner.name, first.notes) == ("trial 3", ())
    complete(ledger, 0.95)  # and trial 3 is a finalist no more
    later = verdict(ledger, followup)
    assert later
    assert (later.winner.name, later.notes) == ("trial 3", (EARLIER,))
    assert {f.name for f in later.finalists} == RIGHT.keys()
    train(ledger, {**RIGHT, "trial 4": 170})
    last = verdict(ledger, followup)
    assert last
    assert (last.winner.name, last.notes) == ("trial 4", ())
    assert {f.name for f in last.finalists} == {"trial 4", "trial 2", "unregularized", "recipe"}


def test_baselines_alone_are_no_final(ledger: Ledger) -> None:
    """Trained for finalists of whom no final was ever complete."""
    followup = FollowUp(ledger.config, ledger.store, "finalists")
    everybody = points(ledger)
    followup.add([p for p in everybody if p.group in ("unregularized", "recipe")])
    while claim := followup.claim():
        answers = Answers(np.ones(4, np.bool_), np.ones(4, np.float32))
        followup.complete(claim, 0.5, {ANSWERS: answers.to_json()})
    remember_final(ledger, followup, choose(ledger))
    assert followup.is_over()
    assert verdict(ledger, followup) is None


def test_more_seeds_are_another_final(ledger: Ledger, tmp_path: Path) -> None:
    followup = train(ledger, RIGHT)
    config = tiny_config(tmp_path, *TWO, "finalists.seeds=3")
    found = verdict(Ledger(config, ledger.store), followup)
    assert found
    assert found.notes == (EARLIER,)
    assert len(found.winner.trainings) == 2


def test_seeds_that_no_longer_count_are_told(ledger: Ledger, tmp_path: Path) -> None:
    """Or a champion would change, and nobody would know why."""
    followup = train(ledger, RIGHT)
    config = tiny_config(tmp_path, *TWO, "finalists.seeds=1")
    found = verdict(Ledger(config, ledger.store), followup)
    assert found
    told = "2 seeds of each finalist were trained, of which 1 count: `finalists.seeds` is 1 now"
    assert found.notes == (told,)


def test_who_fails_is_no_finalist(ledger: Ledger) -> None:
    right = {name: count for name, count in RIGHT.items() if name != "trial 3"}
    found = verdict(ledger, train(ledger, right))
    assert found
    assert found.winner.name == "recipe"
    assert found.notes == ("trial 3 is no finalist: 2 of its 2 trainings are missing",)


def test_a_baseline_that_breaks_a_constraint_is_compared_with_and_can_not_win(
    tmp_path: Path,
) -> None:
    text = TINY.replace("trials: 4", f"trials: 4\n  constraints: {{{GAP}: 0.1}}")
    ledger = searched(tmp_path, 0.5, 0.6, 0.9, 0.8, text=text, gaps=(0.3, 0.0, 0.0, 0.0))
    followup = train(ledger, {**RIGHT, "unregularized": 190})
    found = verdict(ledger, followup)
    assert found
    assert verdict_on(ledger, followup, ledger.trials()[:1], 2) is None  # alone it wins neither
    assert [f.name for f in found.finalists] == ["trial 3", "recipe", "trial 2", "unregularized"]
    assert found.notes == ("unregularized breaks the constraints, and can't win",)


def test_of_equals_the_better_one_by_the_other_metrics_wins(tmp_path: Path) -> None:
    metrics = f"  metrics: [validation/accuracy, {ECE}]\n"
    text = TINY.replace("  pruner: {kind: none}\n", metrics)
    ledger = searched(tmp_path, 0.5, 0.6, 0.9, 0.8, text=text)
    same = dict.fromkeys(("unregularized", "recipe", "trial 2", "trial 3"), 150)
    found = verdict(ledger, train(ledger, same, {"trial 2": 0.125}))
    assert found
    assert found.winner.name == "trial 2"


def test_another_follow_up_is_judged_by_whom_it_has(ledger: Ledger) -> None:
    """The transfer check, of which not all is trained."""
    followup = train(ledger, {"trial 3": 160})
    found = verdict_on(ledger, followup, choose(ledger), 2)
    assert found
    assert [f.name for f in found.finalists] == ["trial 3"]
    assert verdict_on(ledger, followup, choose(ledger)[:1], 2) is None
