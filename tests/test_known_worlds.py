"""Two more worlds of which the truth is known (see `test_known_truth`), 20 seeds each.

In one the pruner is unfair: dropout makes nets better and slower. In the other every trial has the
harmful regularizer, which only an ablation can find.
"""

from __future__ import annotations

import pytest

from tests.surrogate import World, known_ledger, train_all
from tests.test_known_truth import FAIR, HARMED, SEEDS
from tests.truths import MUCH, Pruning, Story, failing, harmful_is_told, helpful_is_told, told

LATE = World(slow_epochs=12.0)
"""With a dropout of 0.4 the shortfall shrinks by a factor of e in 9 epochs instead of 2.5."""

LATE_SEEDS = range(300, 320)


@pytest.fixture(scope="module")
def unfair(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Pruning]:
    """A third of those that the pruner would stop is audited: two or three would prove little."""
    found = {}
    for seed in LATE_SEEDS:
        folder = tmp_path_factory.mktemp("late")
        ledger = known_ledger(folder, seed, "study.audit_fraction=0.3")
        train_all(ledger, LATE)
        found[seed] = Pruning(ledger, LATE)
    return found


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_unfair_pruning_is_counted_and_a_cure_found(unfair: dict[int, Pruning]) -> None:
    assert sum(pruning.cost > MUCH for pruning in unfair.values()) >= 15  # it is unfair
    wrong = [seed for seed, pruning in unfair.items() if not pruning.count_is_told()]
    assert len(wrong) <= 1, wrong
    wrong = [seed for seed, pruning in unfair.items() if not pruning.advice_is_told()]
    assert len(wrong) <= 1, wrong


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_an_ablation_finds_what_harms(tmp_path_factory: pytest.TempPathFactory) -> None:
    stories = [told(tmp_path_factory.mktemp("harm"), s, FAIR, text=HARMED) for s in SEEDS]
    for is_told in (harmful_is_told, helpful_is_told):
        wrong = failing(stories, is_told)
        assert len(wrong) <= 1, (is_told, wrong)
    worths = [abs(said - true) <= half for s in stories for said, half, true in Story.worths(s)]
    assert sum(worths) >= 0.9 * len(worths)
