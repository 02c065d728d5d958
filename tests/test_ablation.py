"""Ablation: which variants are trained, and what their answers say a regularizer is worth."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import mlflow
import numpy as np
import pytest
from mlflow import MlflowClient
from rich.console import Console

from pipeline.ablation import Effect, Interaction, ablation, read_ablation
from pipeline.ablation_design import KIND, Design, design
from pipeline.answers import Answers
from pipeline.errors import UserError
from pipeline.progress import LogView
from pipeline.report.ablation import ablation_report, interaction_sentence, sentence
from pipeline.revisit import Ablated, Means, ablate
from pipeline.search import Options, run_search
from pipeline.study.followup import ANSWERS, FollowUp
from pipeline.study.ledger import Ledger
from pipeline.study.storage import open_storage
from pipeline.transfer import EPOCHS, transfer_changes, transfer_points
from tests.spaces import TINY, tiny_config, tiny_space

DROPOUT, SMOOTHING, DECAY = (
    "regularization.dropout",
    "regularization.label_smoothing",
    "training.optimizer.weight_decay",
)
THREE = TINY.replace("{dropout: 0.5}", "{dropout: 0.5, label_smoothing: 0.1}")
NUM_IMAGES = 400


@contextmanager
def search(folder: Path, text: str, values: Sequence[float]) -> Iterator[Ledger]:
    """Whose trials have these values, and whose winner is trial 2."""
    store = open_storage(f"sqlite:///{folder}/optuna.db")
    found = Ledger(tiny_config(folder, text=text), store)
    for value in values:
        claim = found.claim()
        assert claim
        found.complete(claim, value)
    found.keep("winner", 2)
    yield found
    store.close()


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    """A search whose winner has dropout, weight decay and label smoothing."""
    with search(tmp_path, THREE, (0.5, 0.6, 0.9, 0.8)) as found:
        yield found


@pytest.fixture
def four(tmp_path: Path) -> Iterator[Ledger]:
    """With an augmentation too: of four regularizers two alone are trainings of their own."""
    text = THREE.replace("search:", "augmentation: {strength: 0.5}\nsearch:")
    with search(tmp_path, text, (0.5, 0.6, 0.9)) as found:
        yield found


def trained(
    ledger: Ledger, right: dict[str, int], pairs: Sequence[tuple[str, str]] = ()
) -> FollowUp:
    """An ablation in which each variant tells so many of the 400 images right."""
    followup = FollowUp(ledger.config, ledger.store, KIND)
    followup.add(design(ledger).points(2, pairs))
    while claim := followup.claim():
        group = claim.name.rpartition(", seed")[0]
        correct = np.arange(NUM_IMAGES) < right[group]
        answers = Answers(correct, correct.astype(np.float32))
        followup.complete(claim, 0.5, {ANSWERS: answers.to_json()})
    return followup


RIGHT = {
    "trial 2": 360,
    "trial 2, nothing": 280,
    "trial 2, without dropout": 320,
    "trial 2, without label_smoothing": 340,
    "trial 2, without weight_decay": 360,
    "trial 2, only dropout": 340,
    "trial 2, only label_smoothing": 340,
    "trial 2, only weight_decay": 280,
}


def test_each_variant_is_trained_once_a_seed(ledger: Ledger) -> None:
    plan = design(ledger)
    assert set(plan.regularizers) == {SMOOTHING, DROPOUT, DECAY}
    assert {p.group for p in plan.points(2)} == set(RIGHT)
    assert len(plan.points(2)) == 2 * len(RIGHT)
    # Of three, two alone are the trial without the third: nothing new is trained for a pair.
    assert {p.group for p in plan.points(2, [(DROPOUT, DECAY)])} == set(RIGHT)


def test_a_variant_differs_by_its_regularizer_alone(ledger: Ledger) -> None:
    plan = design(ledger)
    values = {p.group: ledger.config.with_overrides(p.overrides).values() for p in plan.points(1)}

    def changed(group: str) -> set[str]:
        return {k for k, v in values[group].items() if v != values["trial 2"][k]}

    assert changed("trial 2, without dropout") == {DROPOUT}
    assert changed("trial 2, only dropout") == {SMOOTHING, DECAY}
    assert changed("trial 2, nothing") == {DROPOUT, SMOOTHING, DECAY}
    assert values["trial 2, nothing"][DROPOUT] == 0


def test_a_searched_part_of_the_augmentation_is_a_regularizer_of_its_own(tmp_path: Path) -> None:
    text = TINY.replace(
        "search:", "search:\n  augmentation.cutout_fraction: {type: float, low: 0.0, high: 0.5}"
    )
    config = tiny_config(tmp_path, "augmentation.strength=1.0", text=text)
    overrides = {"augmentation.strength": 0.5, "augmentation.cutout_fraction": 0.25, DROPOUT: 0.0}
    plan = Design("trial 7", config, overrides)
    assert "augmentation.cutout_fraction" in plan.regularizers
    alone = config.with_overrides(plan.alone("augmentation.cutout_fraction")).augmentation
    assert (alone.strength, alone.cutout_fraction) == (0.5, 0.25)
    assert (alone.crop_padding_fraction, alone.horizontal_flip, alone.brightness) == (0, "none", 0)
    without = config.with_overrides(plan.without("augmentation.cutout_fraction")).augmentation
    assert (without.strength, without.cutout_fraction) == (0.5, 0)
    assert without.horizontal_flip == "random"


@pytest.mark.parametrize(
    "more",
    [
        "metrics: [validation/accuracy, validation/ece]",
        "pruner: {kind: none}\n  warm_start: {study: old, ignore: [model]}",
    ],
)
def test_studies_whose_settings_have_lists_are_taken_apart(tmp_path: Path, more: str) -> None:
    config = tiny_config(tmp_path, text=THREE.replace("pruner: {kind: none}", more))
    plan = Design("trial 2", config, {DROPOUT: 0.25})
    assert {p.group for p in plan.points(1)} > {"trial 2", "trial 2, without dropout"}


def test_the_strongest_pairs_are_those_whose_weaker_one_is_strongest(ledger: Ledger) -> None:
    effects = tuple(Effect(path, 0.5, None, None) for path in "abcd")
    found = replace(ablation(design(ledger), trained(ledger, RIGHT)), effects=effects)
    pairs = ["".join(pair) for pair in found.strongest_pairs(6)]
    assert pairs == ["ab", "ac", "bc", "ad", "bd", "cd"]


def test_the_augmentation_is_no_pair_with_its_own_part(ledger: Ledger) -> None:
    paths = ("augmentation.strength", "augmentation.cutout_fraction", DROPOUT)
    effects = tuple(Effect(path, 0.5, None, None) for path in paths)
    found = replace(ablation(design(ledger), trained(ledger, RIGHT)), effects=effects)
    assert found.strongest_pairs(9) == [(paths[0], DROPOUT), (paths[1], DROPOUT)]


def test_pairs_with_fewer_seeds_cost_the_others_none(four: Ledger) -> None:
    plan, followup = design(four), FollowUp(four.config, four.store, KIND)
    followup.add(plan.points(4))
    followup.add(plan.points(2, [(DROPOUT, SMOOTHING)]))
    while claim := followup.claim():
        answers = Answers(np.ones(NUM_IMAGES, np.bool_), np.ones(NUM_IMAGES, np.float32))
        followup.complete(claim, 0.5, {ANSWERS: answers.to_json()})
    found = ablation(plan, followup)
    assert found.num_seeds == 4
    assert [{i.first, i.second} for i in found.interactions] == [{DROPOUT, SMOOTHING}]


def test_worth_is_the_difference_of_means(ledger: Ledger) -> None:
    found = ablation(design(ledger), trained(ledger, RIGHT))
    assert (found.num_seeds, found.num_images, found.reference) == (2, 400, "trial 2")
    effects = {effect.path: effect for effect in found.effects}
    within = {path: effect.within[0] for path, effect in effects.items() if effect.within}
    alone = {path: effect.alone[0] for path, effect in effects.items() if effect.alone}
    assert within == pytest.approx({DROPOUT: 0.1, SMOOTHING: 0.05, DECAY: 0})
    assert alone == pytest.approx({DROPOUT: 0.15, SMOOTHING: 0.15, DECAY: 0})
    assert found.total
    assert found.total[0] == pytest.approx(0.2)
    assert found.effects[-1].path == DECAY
    assert not found.notes


@pytest.mark.parametrize(
    ("first", "second", "excess", "words"),
    [
        (0.1, 0.1, 0.05, "are worth more together than their sum"),
        (0.1, 0.1, -0.05, "substitute for each other"),
        (0.1, 0.005, -0.05, "are worth less together than their sum"),
        (-0.1, -0.1, 0.05, "cost less together than their sum"),
        (-0.1, -0.1, -0.05, "cost more together than their sum"),
        (-0.1, -0.1, 0.005, "add up, as far as can be told"),
    ],
)
def test_what_two_are_together_is_said_by_their_signs(
    first: float, second: float, excess: float, words: str
) -> None:
    gains = ((first + second + excess, 0.01), (first, 0.01), (second, 0.01), (excess, 0.01))
    assert Interaction("a", "b", *gains).words == words


def test_two_that_do_the_same_substitute_for_each_other(ledger: Ledger) -> None:
    """Alone 15 points each; both, the winner without decay, 20: 10 less than the sum."""
    found = ablation(design(ledger), trained(ledger, RIGHT))
    pairs = {frozenset((i.first, i.second)): i for i in found.interactions}
    pair = pairs[frozenset((DROPOUT, SMOOTHING))]
    assert pair.interaction[0] == pytest.approx(-0.1)
    assert pair.both[0] == pytest.approx(0.2)
    assert pair.words == "substitute for each other"
    assert "alone +15.00 and +15.00, both +20.00" in interaction_sentence(found, pair)
    assert set(found.strongest_pairs(1)[0]) == {DROPOUT, SMOOTHING}


def test_pairs_are_found_in_whichever_order_they_were_named(four: Ledger) -> None:
    """The strongest comes first."""
    plan = design(four)
    right = dict.fromkeys([point.group for point in plan.points(1)], 300)
    for path in plan.regularizers:
        right[plan.group(plan.alone(path), path)] = 320
    pairs = [(b, a) for a, b in combinations(plan.regularizers, 2)]
    for pair in pairs:
        right[plan.group(plan.alone(*pair), *pair)] = 330
    found = ablation(plan, trained(four, right, pairs))
    assert len(found.interactions) == len(pairs) == 6
    # Each alone is worth 20 of 400 images, both are worth 30: 10 less than the sum.
    assert [i.interaction[0] for i in found.interactions] == pytest.approx([-0.025] * 6)


def test_words_tell_worth_from_cost_and_from_nothing(ledger: Ledger) -> None:
    found = ablation(design(ledger), trained(ledger, {**RIGHT, "trial 2, only weight_decay": 240}))
    said = {effect.path: sentence(found, effect) for effect in found.effects}
    assert "in trial 2 worth +10.00" in said[DROPOUT]
    assert "in trial 2 no effect that can be told (+0.00" in said[DECAY]
    assert "alone costs 10.00" in said[DECAY]


def test_missing_trainings_are_told_and_nothing_is_made_up(ledger: Ledger) -> None:
    followup = FollowUp(ledger.config, ledger.store, KIND)
    followup.add(design(ledger).points(1))
    found = ablation(design(ledger), followup)
    assert found.total is None
    assert all(e.within is None and e.alone is None for e in found.effects)
    assert "not trained yet: trial 2, nothing" in found.notes
    console = Console(record=True, width=100, file=io.StringIO())
    console.print(ablation_report(Ablated(found, [], unfinished=True)))
    assert "the same command goes on" in console.export_text()


def test_seeds_that_not_all_variants_have_do_not_count(ledger: Ledger) -> None:
    followup = trained(ledger, RIGHT)
    followup.add([p for p in design(ledger).points(3) if p.group == "trial 2"])
    claim = followup.claim()
    assert claim
    answers = Answers(np.zeros(NUM_IMAGES, np.bool_), np.zeros(NUM_IMAGES, np.float32))
    followup.complete(claim, 0.1, {ANSWERS: answers.to_json()})
    found = ablation(design(ledger), followup)
    assert found.num_seeds == 2
    assert found.total
    assert found.total[0] == pytest.approx(0.2)
    assert any("some variants have more seeds" in note for note in found.notes)


def test_a_winner_without_regularizers_gives_way_to_the_best_that_has_some(ledger: Ledger) -> None:
    ledger.keep("winner", 0)
    assert design(ledger).name == "trial 2"


def test_twice_the_epochs_and_half_the_images(ledger: Ledger) -> None:
    assert {p.overrides["training.epochs"] for p in transfer_points(ledger, EPOCHS)} == {4}
    assert transfer_changes("transfer-data", 101) == {"data.train_images": 50}
    assert transfer_changes(EPOCHS, 100) == {}


def test_a_study_is_taken_apart_and_mlflow_has_table_and_picture(workspace: Path) -> None:
    storage = f"sqlite:///{workspace}/mlruns/optuna.db"
    view = LogView(Console(quiet=True))
    space = tiny_space(workspace, "study.trials=2", "training.epochs=1")
    with pytest.raises(UserError, match="there is no store"):
        ablate("tiny", Means(storage), view, seeds=1, pairs=1, transfer=False)
    run_search(space, Options(num_workers=1), view)
    with pytest.raises(UserError, match="no finalists to check"):
        ablate("tiny", Means(storage), view, seeds=1, pairs=1, transfer=True)
    means = Means(storage, num_workers=1)
    found = ablate("tiny", means, view, seeds=1, pairs=1, transfer=False)
    assert not found.unfinished
    assert found.unlogged == ""
    assert found.ablation.reference == "recipe"
    assert [e.path for e in found.ablation.effects] == [DROPOUT]
    run_id = ablation_run()
    table = json.loads(mlflow.artifacts.load_text(f"runs:/{run_id}/ablation.json"))
    assert table == json.loads(json.dumps(found.ablation.to_json()))
    assert "in recipe" in mlflow.artifacts.load_text(f"runs:/{run_id}/ablation.html")
    told = io.StringIO()
    telling = LogView(Console(file=told))
    again = ablate("tiny", means, telling, seeds=1, pairs=1, transfer=False)
    assert "loading MLflow and opening its store ..." in told.getvalue()
    assert again.ablation == found.ablation
    assert ablation_run() == run_id
    store = open_storage(storage)
    ledger = Ledger(space.config, store, begin=False)
    # Of one regularizer, without it is nothing, and it alone is the trial: two trainings.
    assert len(FollowUp(ledger.config, store, KIND).trials()) == 2
    assert read_ablation(ledger) == found.ablation
    store.close()


def ablation_run() -> str:
    """The one run of MLflow of the ablation."""
    client = MlflowClient()
    experiment = client.get_experiment_by_name("tiny")
    assert experiment
    kind = f"tags.`regsearch.kind` = '{KIND}'"
    (run,) = client.search_runs([experiment.experiment_id], kind)
    return str(run.info.run_id)
