"""Finalists: trained again with fresh seeds, compared in pairs on images that nobody chose by."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterator
from pathlib import Path

import mlflow
import numpy as np
import optuna
import pytest
from mlflow import MlflowClient
from optuna.trial import TrialState
from rich.console import Console

from pipeline.answers import Answers, answers_of, judged_by
from pipeline.decision import points
from pipeline.decision import verdict as verdict_of
from pipeline.final import UNFINISHED
from pipeline.finalists import Finalist, Verdict, best_training, ranked
from pipeline.outcome import Outcome
from pipeline.progress import LogView
from pipeline.report.sections.head import gain_words
from pipeline.report.summary import summary
from pipeline.search import Options, run_search
from pipeline.seeding import TrialSeeds
from pipeline.study.constraints import CONSTRAINTS_PREFIX
from pipeline.study.followup import ANSWERS, SEED, FollowUp, Point
from pipeline.study.ledger import Ledger
from pipeline.study.storage import open_storage
from pipeline.study.store import SCORED
from pipeline.weights import WeightStore
from tests.conftest import enter
from tests.killing import kill_and_run_again
from tests.spaces import TINY, tiny_config, tiny_space

TWO = ("finalists.count=2", "finalists.seeds=2")


def test_scores_of_each_image_add_up_to_the_metric() -> None:
    probabilities = np.array([[0.7, 0.3], [0.4, 0.6], [0.9, 0.1], [0.2, 0.8]])
    labels = np.array([0, 0, 0, 1])
    accuracy = answers_of(probabilities, labels, "accuracy")
    assert accuracy.correct.tolist() == [True, False, True, True]
    assert accuracy.scores.mean() == 0.75
    # Class 0 has 2 of 3 right, class 1 has 1 of 1.
    balanced = answers_of(probabilities, labels, "balanced_accuracy").scores
    assert balanced.mean() == pytest.approx((2 / 3 + 1) / 2)
    loss = answers_of(probabilities, labels, "loss").scores
    assert loss.tolist() == pytest.approx([-np.log(p) for p in (0.7, 0.4, 0.9, 0.8)])
    brier = answers_of(probabilities, labels, "brier").scores
    assert brier.tolist() == pytest.approx([0.18, 0.72, 0.02, 0.08])


@pytest.mark.parametrize("judged", ["accuracy", "loss"])
def test_answers_survive_json(judged: str) -> None:
    chance = np.random.default_rng(0)
    probabilities = chance.dirichlet(np.ones(3), 1001)
    answers = answers_of(probabilities, chance.integers(0, 3, 1001), judged)  # type: ignore[arg-type]
    again = Answers.from_json(json.loads(json.dumps(answers.to_json())))
    assert np.array_equal(again.correct, answers.correct)
    assert np.array_equal(again.scores, answers.scores)


def test_what_is_no_mean_over_images_is_judged_by_what_is() -> None:
    assert judged_by("validation/macro_f1") == "accuracy"
    assert judged_by("validation/ece") == "brier"
    assert judged_by("validation/loss") == "loss"


def finalist(
    name: str, search: float, *rows: list[int], judged: str = "accuracy", misses: float = 0.0
) -> Finalist:
    attrs = {SCORED: {f"validation/{judged}": search}}
    missed = {f"{CONSTRAINTS_PREFIX}validation/ece": misses} if misses else {}
    trial = optuna.create_trial(value=search, user_attrs=attrs, system_attrs=missed)
    answers = [Answers(np.array(r, np.bool_), np.array(r, np.float32)) for r in rows]
    return Finalist(name, trial, (), tuple(answers), judged)  # type: ignore[arg-type]


def test_the_best_mean_wins_and_not_the_best_search_score() -> None:
    lucky = finalist("trial 3", 0.9, [1, 1, 0, 0], [1, 0, 0, 0])
    good = finalist("trial 5", 0.8, [1, 1, 1, 0], [1, 1, 0, 0])
    found = Verdict(ranked([lucky, good], "accuracy"), "accuracy", True)
    assert found.winner is good
    assert good.selection is not None
    assert good.selection[0] == 0.625
    assert good.optimism == pytest.approx(0.175)
    assert lucky.optimism == pytest.approx(0.9 - 0.375)
    gain = good.gain_over(lucky)
    assert gain is not None
    assert gain[0] == 0.25
    assert found.is_tied(lucky)  # four images and two seeds prove nothing
    assert not found.is_tied(good)


def test_the_winners_gains_hold_together_and_others_each_for_itself() -> None:
    """Four images right or wrong, one seed: t with 3 degrees, for 5 % / 2 and for 5 %."""
    best = finalist("trial 1", 0.9, [1, 1, 1, 1])
    second = finalist("trial 2", 0.9, [1, 1, 0, 0])
    last = finalist("trial 3", 0.9, [0, 1, 0, 0])
    found = Verdict((best, second, last), "accuracy", True)
    deviation = math.sqrt(4 / 3 * 0.25)  # of 0, 0, 1, 1
    assert found.gain(second) == (0.5, pytest.approx(4.1765 * deviation / 2, rel=1e-4))
    assert found.gain(last, of=best) == (0.75, pytest.approx(4.1765 * 0.5 / 2, rel=1e-4))
    assert found.gain(last, of=second) == (0.25, pytest.approx(3.1824 * 0.5 / 2, rel=1e-4))
    searched = Verdict((best, second, last), "accuracy", False)  # chosen on other images
    assert searched.gain(second) == (0.5, pytest.approx(3.1824 * deviation / 2, rel=1e-4))


def test_among_equals_the_winner_is_seldom_said_to_be_better() -> None:
    """Five trials and a baseline that are all right on 80 % of 300 images: in 400 such studies a
    trial seems better than the baseline in fewer than one of 20; with each gain's own interval, in
    more than one of 13."""
    rng = np.random.default_rng(0)
    together = alone = 0
    for _ in range(400):
        rows = (rng.random((6, 1, 300)) < 0.8).astype(int)
        names = ["unregularized", *(f"trial {n}" for n in range(2, 7))]
        made = [finalist(name, 0.8, *row.tolist()) for name, row in zip(names, rows, strict=True)]
        found = Verdict(ranked(made, "accuracy"), "accuracy", True)
        if found.winner is made[0]:
            continue
        gain, own = found.gain(made[0]), found.winner.gain_over(made[0])
        assert gain is not None
        assert own is not None
        together += gain[0] > gain[1]
        alone += own[0] > own[1]
    assert together / 400 < 1 / 20
    assert alone / 400 > 1 / 13


def test_who_is_better_but_breaks_the_constraints_is_no_tie_and_named() -> None:
    winner = finalist("trial 1", 0.5, [0] * 20 + [1] * 20)
    barred = finalist("trial 2", 0.9, [1] * 40, misses=0.1)
    found = Verdict(ranked([barred, winner], "accuracy"), "accuracy", True)
    assert found.winner is winner
    assert found.barred() == [barred]
    assert not found.is_tied(barred)
    assert gain_words("accuracy", found.gain(barred)) == (
        "-50.00 ± 16.19 points, worse by more than chance allows"
    )


def test_a_lower_loss_wins() -> None:
    low = finalist("trial 1", 0.5, [1, 1], [1, 1], judged="loss")
    high = finalist("trial 2", 0.4, [2, 2], [2, 2], judged="loss")
    assert ranked([high, low], "loss")[0] is low
    assert low.gain_over(high) == (1.0, 0.0)
    assert low.optimism == 0.5  # the search said half of what it is


def test_validation_chooses_among_the_seeds() -> None:
    trainings = tuple(optuna.create_trial(value=value) for value in (0.3, 0.1, 0.2))
    one = Finalist("trial 1", trainings[0], trainings, (), "accuracy")
    assert best_training(one, "validation/accuracy").value == 0.3
    assert best_training(one, "validation/loss").value == 0.1


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    store = open_storage(f"sqlite:///{tmp_path}/optuna.db")
    found = Ledger(tiny_config(tmp_path, *TWO), store)
    for value in (0.5, 0.6, 0.9, 0.8):
        claim = found.claim()
        assert claim
        found.complete(claim, value)
    yield found
    store.close()


def test_the_best_and_the_baselines_are_finalists(ledger: Ledger) -> None:
    groups = list(dict.fromkeys(point.group for point in points(ledger)))
    assert groups == ["trial 2", "trial 3", "unregularized", "recipe"]
    assert len(points(ledger)) == 8
    assert {point.seed for point in points(ledger)} == {"finalists/1", "finalists/2"}


def test_points_are_queued_once_and_failed_ones_again(ledger: Ledger) -> None:
    followup = FollowUp(ledger.config, ledger.store, "finalists")
    wanted = [Point("a", "s/1", {"regularization.dropout": 0.1}), Point("a", "s/2", {})]
    followup.add(wanted)
    followup.add(wanted)
    assert followup.target == 2
    first = followup.claim()
    assert first
    assert first.name == "a, seed 1"
    assert first.overrides == {"regularization.dropout": 0.1}
    assert first.seed == "s/1"
    followup.fail(first, "a reason")
    followup.add(wanted)
    names = []
    while claim := followup.claim():
        names.append(claim.name)
        followup.complete(claim, 0.5)
    assert names == ["a, seed 2", "a, seed 1"]
    assert followup.is_over()
    assert len(ledger.trials()) == 4  # the search has no more


def test_points_of_one_seed_share_their_chance_and_none_has_the_searchs() -> None:
    assert TrialSeeds.of(0, "finalists/1") == TrialSeeds.of(0, "finalists/1")
    seeds = {TrialSeeds.of(0, key).init for key in ("finalists/1", "finalists/2", 1, 2)}
    assert len(seeds) == 4


def test_a_finalist_without_all_of_its_seeds_is_left_out_and_said_so(ledger: Ledger) -> None:
    followup = FollowUp(ledger.config, ledger.store, "finalists")
    followup.add(points(ledger))
    assert verdict_of(ledger, followup) is None
    answers = {ANSWERS: Answers(np.ones(4, np.bool_), np.ones(4, np.float32)).to_json()}
    while claim := followup.claim():
        if claim.name == "trial 2, seed 2":
            followup.fail(claim, "a reason")
        else:
            followup.complete(claim, 0.5, answers)
    found = verdict_of(ledger, followup)
    assert found
    assert [f.name for f in found.finalists] == ["unregularized", "recipe", "trial 3"]
    assert found.notes == ("trial 2 is no finalist: 1 of its 2 trainings are missing",)


def test_wider_bounds_of_the_search_leave_its_finalists_as_they_are(
    ledger: Ledger, tmp_path: Path
) -> None:
    """`run --extend` after the final: the points that are trained stay trained."""
    FollowUp(ledger.config, ledger.store, "finalists").add(points(ledger))
    text = TINY.replace("high: 0.7", "high: 0.8")
    wider = Ledger(tiny_config(tmp_path, *TWO, text=text), ledger.store, extend=True)
    assert FollowUp(wider.config, wider.store, "finalists").target == 8


@pytest.fixture(scope="module")
def finished(lasting_workspace: Path) -> tuple[Outcome, str]:
    return search(lasting_workspace)


def search(folder: Path) -> tuple[Outcome, str]:
    console = Console(record=True, width=120, file=io.StringIO())
    outcome = run_search(tiny_space(folder, *TWO), Options(num_workers=1), LogView(console))
    console.print(summary(outcome))
    return outcome, console.export_text()


def test_the_winner_is_registered_from_its_fresh_training(finished: tuple[Outcome, str]) -> None:
    found = finished[0].verdict
    assert found
    assert found.retrained
    means = [f.selection[0] for f in found.finalists if f.selection]
    assert means == sorted(means, reverse=True)
    assert all(len(f.trainings) == len(f.answers) == 2 for f in found.finalists)
    client = MlflowClient()
    version = client.get_model_version_by_alias("tiny-cnn", "champion")
    run = client.get_run(version.run_id)
    assert run.data.params["regularization.dropout"] is not None
    assert run.data.tags["regsearch.group"] == found.winner.name
    parent = client.get_run(run.data.tags["mlflow.parentRunId"])
    assert parent.data.tags["regsearch.kind"] == "finalists"
    study = client.get_run(parent.data.tags["mlflow.parentRunId"])
    assert study.data.tags["regsearch.kind"] == "study"
    table = json.loads(mlflow.artifacts.load_text(f"runs:/{parent.info.run_id}/finalists.json"))
    assert table["winner"] == found.winner.name
    assert table["finalists"][0]["selection_mean"] == means[0]
    assert set(client.get_registered_model("tiny-cnn").aliases) == {
        "champion",
        "unregularized",
        "recipe",
    }


def test_the_registered_model_answers_as_the_net_that_was_judged(
    finished: tuple[Outcome, str],
) -> None:
    from pipeline.datasets import load_splits

    outcome = finished[0]
    assert outcome.verdict
    winner = outcome.verdict.winner
    best = best_training(winner, outcome.config.study.metric)
    answers = winner.answers[winner.trainings.index(best)]
    selection = load_splits(outcome.config.data, outcome.config.study.seed).selection
    model = mlflow.pyfunc.load_model("models:/tiny-cnn@champion")
    told = model.predict(selection.images.astype(np.float32) / 255).argmax(axis=1)
    assert abs(int((told == selection.labels).sum()) - int(answers.correct.sum())) <= 2


def test_every_training_has_its_diagnosis_and_selection_scores(
    finished: tuple[Outcome, str],
) -> None:
    client = MlflowClient()
    experiment = client.get_experiment_by_name("tiny")
    assert experiment
    runs = client.search_runs([experiment.experiment_id], "tags.`regsearch.kind` = 'trial'")
    trained = [run for run in runs if "regsearch.group" in run.data.tags]
    assert len(trained) == 8 - 2 * (4 - len(finished[0].verdict.finalists))  # type: ignore[union-attr]
    assert all("selection/accuracy" in run.data.metrics for run in trained)
    searched = [run for run in runs if "regsearch.group" not in run.data.tags]
    assert len(searched) == 4
    assert not any("selection/accuracy" in run.data.metrics for run in searched)
    words = {run.data.tags["regsearch.diagnosis"] for run in runs}
    assert words <= {"healthy", "overfitting", "slightly overfitting", "underfitting"}


def test_the_summary_shows_optimism_and_fresh_seeds(finished: tuple[Outcome, str]) -> None:
    printed = " ".join(finished[1].split())
    assert "optimism" in printed
    assert "each was trained again with 2 fresh seeds" in printed
    assert "finalists: 8 trainings" in printed or "finalists: 6 trainings" in printed


def test_running_again_trains_nothing_and_says_the_same(
    finished: tuple[Outcome, str], lasting_workspace: Path
) -> None:
    first = finished[0].verdict
    versions = len(MlflowClient().search_model_versions("name = 'tiny-cnn'"))
    again, printed = search(lasting_workspace)
    assert again.verdict
    assert first
    assert again.verdict.to_json() == first.to_json()
    assert "trainings with fresh seeds" not in printed
    assert len(MlflowClient().search_model_versions("name = 'tiny-cnn'")) == versions


def test_all_finalists_keep_their_weights(
    finished: tuple[Outcome, str], lasting_workspace: Path
) -> None:
    """With more trials, one that lost may win, and is not trained again."""
    found = finished[0].verdict
    assert found
    trained = sum(len(finalist.trainings) for finalist in found.finalists)
    store = open_storage(f"sqlite:///{lasting_workspace}/mlruns/optuna.db")
    uuid = FollowUp(finished[0].config, store, "finalists").uuid
    store.close()
    assert len(WeightStore(uuid).trials()) == trained


def test_a_final_that_is_cut_short_is_said_to_be_so(tmp_path: Path, mlflow_template: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(mlflow_template.read_bytes())
    with pytest.MonkeyPatch.context() as patch:
        enter(patch, tmp_path)
        run_search(tiny_space(tmp_path), Options(num_workers=1), LogView(Console(quiet=True)))
        options = Options(num_workers=1, timeout_sec=0)
        outcome = run_search(tiny_space(tmp_path, *TWO), options, LogView(Console(quiet=True)))
    assert outcome.timed_out
    assert outcome.verdict
    assert not outcome.verdict.retrained
    assert UNFINISHED in outcome.verdict.notes


def test_a_search_that_goes_on_keeps_its_champion_until_the_next_final(workspace: Path) -> None:
    """Cut short, it has trials that are better by the search's own score, and untried."""
    view = LogView(Console(quiet=True))
    first = run_search(tiny_space(workspace, *TWO), Options(num_workers=1), view)
    version = MlflowClient().get_model_version_by_alias("tiny-cnn", "champion").version
    assert first.verdict
    more = tiny_space(workspace, *TWO, "study.trials=40")
    outcome = run_search(more, Options(num_workers=1, timeout_sec=0), view)
    assert outcome.timed_out
    assert outcome.verdict
    assert outcome.verdict.retrained
    assert outcome.verdict.winner.name == first.verdict.winner.name
    assert MlflowClient().get_model_version_by_alias("tiny-cnn", "champion").version == version


def test_why_finalists_keep_failing_is_in_the_summary(workspace: Path) -> None:
    """Their weights can't be saved: a file lies where their folder should be."""
    view = LogView(Console(quiet=True))
    run_search(tiny_space(workspace), Options(num_workers=1), view)
    config = tiny_config(workspace, *TWO, "study.max_consecutive_failures=2")
    store = open_storage("sqlite:///mlruns/optuna.db")
    (workspace / "mlruns/weights" / FollowUp(config, store, "finalists").uuid).touch()
    store.close()
    space = tiny_space(workspace, *TWO, "study.max_consecutive_failures=2")
    outcome = run_search(space, Options(num_workers=1), view)
    assert not outcome.succeeded
    assert not outcome.too_many_failures  # of the search: it is over
    assert outcome.verdict
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(summary(outcome))
    told = console.export_text()
    assert UNFINISHED in told
    assert "finalists: too many failed in a row, the last with: FileExistsError" in told


def test_finalists_go_on_after_the_run_was_killed(workspace: Path) -> None:
    """The process group is killed while finalists are trained; the same command goes on."""
    kill_and_run_again(workspace, (*TWO, "training.epochs=6"), ", seed 2:")
    store = open_storage(f"sqlite:///{workspace}/mlruns/optuna.db")
    study = optuna.load_study(study_name="tiny/finalists", storage=store)
    assert {trial.state for trial in study.trials} == {TrialState.COMPLETE}
    labels = [trial.user_attrs["regsearch.label"] for trial in study.trials]
    assert len(labels) == len(set(labels)) >= 4
    assert {trial.user_attrs[SEED] for trial in study.trials} == {"finalists/1", "finalists/2"}
    store.close()
