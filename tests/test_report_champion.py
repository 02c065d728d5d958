"""The report on what is registered: an ensemble, a refit, and which of them took whose place."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient
from rich.console import Console

from pipeline.answers import Answers
from pipeline.champion import Champion, Refit
from pipeline.champion_record import recall_champion, remember_champion
from pipeline.finalists import KIND, best_training
from pipeline.nets import Nets
from pipeline.outcome import Outcome
from pipeline.progress import LogView
from pipeline.report.evidence import Evidence, gather
from pipeline.report.html import render, write_report
from pipeline.report.sections.champion import champion_section
from pipeline.report.sources import Sources, Version
from pipeline.revisit import Means, ablate
from pipeline.study.followup import REFIT, FollowUp, Point
from pipeline.study.ledger import Ledger
from tests.conftest import enter
from tests.test_champion import ENSEMBLE, search
from tests.test_report import Page
from tests.test_report_transfer import final, train

NUM_IMAGES = 40
QUIET = LogView(Console(quiet=True))
STORAGE = "sqlite:///mlruns/optuna.db"


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ledger]:
    """A study whose winner, trial 2, tells 30 of 40 images right, with either of two seeds."""
    enter(monkeypatch, tmp_path)
    right = {"trial 2": 30, "trial 3": 20, "recipe": 10, "unregularized": 0}
    with final(tmp_path, right) as found:
        yield found


def says(right: int) -> Answers:
    correct = np.arange(NUM_IMAGES) < right
    return Answers(correct, correct.astype(np.float32))


def ensemble(ledger: Ledger, right: int) -> Nets:
    evidence = gather(ledger)
    assert evidence.verdict
    trainings = evidence.verdict.winner.trainings
    return Nets("trial 2", trainings, evidence.finalists, says(right), "accuracy")


def refit(ledger: Ledger, of: Nets, right: int) -> Refit:
    """Trained for 7 epochs, as many nets as there are."""
    followup = FollowUp(ledger.config, ledger.store, REFIT)
    name = "refit of trial 2 for 7 epochs"
    followup.add([Point(name, f"finalists/{n}", {}, 7) for n in range(len(of.trials))])
    train(followup, {name: right})
    nets = replace(of, trials=tuple(followup.trials()), followup=followup, answers=says(right))
    assert of.answers
    gain = nets.gain_over(of.answers.scores)
    assert gain
    return Refit(nets, 7, gain)


def told(evidence: Evidence) -> str:
    section = champion_section(evidence)
    return " ".join((*section.lead, *section.missing))


def test_an_ensemble_is_set_against_the_best_single_training(ledger: Ledger) -> None:
    nets = ensemble(ledger, 36)
    remember_champion(ledger, Champion(nets, (0.15, 0.1)))
    evidence = gather(ledger)
    text = told(evidence)
    # 2.0227 (t with 39 degrees) x the deviation / sqrt(40): for 36 0.3038, for 6 0.3616
    assert (
        "The ensemble of 2 nets of trial 2's settings is registered: 90.00% ± 9.72 accuracy on 40 "
        "selection images."
    ) in text
    assert (
        "The best single training, by validation, has 75.00% ± 14.02; the gain over it: +15.00 ± "
        "11.57 points, more than chance allows."
    ) in text
    assert "+15.00 ± 10.00 over its nets one by one" in text
    assert "No refit was asked for: `regsearch run SPACE.yaml --set finalists.refit=true`" in text
    (table,) = champion_section(evidence).tables
    assert [row.cells[:5] for row in table.rows] == [
        ("best single training", "1", "75.00% ± 14.02", "-", "no"),
        ("ensemble of 2 nets", "2", "90.00% ± 9.72", "+15.00 ± 11.57", "yes"),
    ]
    figure = Page(render(evidence)).figures["plot-champion"]
    assert figure["data"][0]["x"] == [pytest.approx(15.0)]  # type: ignore[index]
    assert figure["data"][0]["error_x"]["array"] == [pytest.approx(11.57, abs=0.01)]  # type: ignore[index]


RIGHT = [
    (40, "is better than chance allows, and is registered"),  # 4 of 40 more: +10.00 ± 9.72
    (36, "is no worse than chance allows, and is registered"),
    (35, "is no worse than chance allows, and is registered"),
    (4, "is worse than chance allows, and so what is registered is without it"),
]
"""Of 40, beside the 36 of the winner's nets."""


@pytest.mark.parametrize(("right", "why"), RIGHT)
def test_a_refit_takes_the_winners_place_unless_it_is_worse(
    ledger: Ledger, right: int, why: str
) -> None:
    nets = ensemble(ledger, 36)
    remember_champion(ledger, Champion(nets, (0.15, 0.1), refit(ledger, nets, right)))
    text = told(gather(ledger))
    name = "ensemble of 2 nets" if right == 4 else "ensemble of 2 refits"
    assert f"The {name} of trial 2's settings is registered: " in text
    assert "Refit for 7 epochs on training and validation images, trial 2 has" in text
    assert f"the refit {why}." in text
    (table,) = champion_section(gather(ledger)).tables
    assert [row.cells[0] for row in table.rows if row.marked] == [name]
    assert len(table.rows) == 3


@pytest.mark.parametrize(("num_nets", "is_it"), [(2, True), (1, False)])
def test_one_of_its_nets_alone_is_not_the_ensemble(
    ledger: Ledger, num_nets: int, is_it: bool
) -> None:
    """Both are versions of the same run."""
    nets = ensemble(ledger, 36)
    remember_champion(ledger, Champion(nets, (0.15, 0.1)))
    version = Version("4", ("champion",), "run-a", num_nets)
    trainings = {KIND: {nets.trials[0].number: "run-a", nets.trials[1].number: "run-b"}}
    sources = Sources(trainings=trainings, versions=(version,))
    text = told(replace(gather(ledger), sources=sources))
    assert ("In MLflow it is version 4 of tiny-cnn" in text) is is_it
    assert ("`models:/tiny-cnn@champion` in MLflow is not this model" in text) is not is_it


def test_what_is_kept_comes_back_as_it_was(ledger: Ledger) -> None:
    nets = ensemble(ledger, 36)
    before = Champion(nets, (0.15, 0.1), refit(ledger, nets, 38), ("a note",))
    remember_champion(ledger, before)
    after = recall_champion(ledger, gather(ledger).followups)
    assert after
    assert after.to_json() == before.to_json()
    assert (after.over_single, after.notes) == ((0.15, 0.1), ("a note",))
    assert [t.number for t in after.nets.trials] == [t.number for t in before.nets.trials]
    assert recall_champion(ledger, {}) is None  # its trainings are not there


def test_one_net_and_what_was_not_asked_for(ledger: Ledger) -> None:
    nets = ensemble(ledger, 36)
    one = replace(nets, trials=nets.trials[:1], answers=says(30))
    remember_champion(ledger, Champion(one, notes=("the refit is not trained",)))
    text = told(gather(ledger))
    assert "The best single training of trial 2's settings is registered: 75.00% ± 14.02" in text
    assert "--set finalists.champion=ensemble` registers the mean of the winner's 2 nets" in text
    assert "The refit is not trained. `regsearch run SPACE.yaml` goes on." in text
    assert "the gain over it" not in text


def test_what_is_not_on_record_or_out_of_date_is_not_told_as_if_it_were(ledger: Ledger) -> None:
    assert "It is not on record what is registered of trial 2" in told(gather(ledger))
    remember_champion(ledger, Champion(replace(ensemble(ledger, 36), name="trial 3"), (0.1, 0.1)))
    text = told(gather(ledger))
    assert "What was registered last is of trial 3, from before trial 2 won" in text
    assert "36" not in text
    assert "90.00%" not in text


@pytest.fixture(scope="module")
def finished(lasting_workspace: Path) -> Outcome:
    outcome, _ = search(lasting_workspace, *ENSEMBLE, "finalists.refit=true")
    means = Means(STORAGE, num_workers=1)
    assert not ablate("tiny", means, QUIET, seeds=1, pairs=0, transfer=True).unfinished
    return outcome


def report(workspace: Path) -> str:
    """Written without images at hand: none may be loaded."""
    shutil.rmtree(workspace / "data", ignore_errors=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sklearn.datasets.load_digits", lambda *_, **__: pytest.fail("images read"))
        written = write_report(STORAGE, "tiny")
    assert written.not_logged == ""
    return written.path.read_text(encoding="utf-8")


def test_a_real_study_tells_the_same_as_its_summary_and_names_its_runs(
    finished: Outcome, lasting_workspace: Path
) -> None:
    champion, verdict = finished.crowned.champion, finished.verdict
    assert champion
    assert verdict
    assert champion.refit
    text = Page(report(lasting_workspace)).text
    own = text.partition("What is registered The ")[2].partition(" Ablation ")[0]
    mean, half = champion.nets.selection or (0.0, 0.0)
    score = f"{mean:.2%} ± {100 * half:.2f}"
    name = "nets" if champion.refit.is_worse else "refits"
    assert own.startswith(f"ensemble of 2 {name} of {verdict.winner.name}'s settings is registered")
    assert f"registered: {score} accuracy on" in own
    client = MlflowClient()
    version = client.get_model_version_by_alias("tiny-cnn", "champion")
    assert f"version {version.version} of tiny-cnn" in own
    assert version.run_id in own
    assert best_training(verdict.winner, finished.config.study.metric) in champion.winner.trials
    experiment = client.get_experiment_by_name("tiny")
    assert experiment
    for kind in ("transfer-epochs", "transfer-data"):
        wanted = f"tags.`regsearch.kind` = '{kind}'"
        (check,) = client.search_runs([experiment.experiment_id], wanted)
        assert check.info.run_id in text
        below = f"tags.`mlflow.parentRunId` = '{check.info.run_id}'"
        trainings = client.search_runs([experiment.experiment_id], below)
        assert len(trainings) == 2 * len(verdict.finalists)
        assert all(run.info.run_id in text for run in trainings)


def test_an_alias_that_was_moved_is_told(finished: Outcome, lasting_workspace: Path) -> None:
    assert finished.verdict
    client = MlflowClient()
    champion = client.get_model_version_by_alias("tiny-cnn", "champion").version
    other = client.get_model_version_by_alias("tiny-cnn", "unregularized").version
    client.set_registered_model_alias("tiny-cnn", "champion", other)
    text = Page(report(lasting_workspace)).text
    client.set_registered_model_alias("tiny-cnn", "champion", champion)
    assert other != champion
    assert "models:/tiny-cnn@champion in MLflow is not this model" in text
    assert "regsearch sync tiny registers it" in text


def test_an_alias_that_another_study_has_is_told_with_a_cure_that_helps(
    finished: Outcome, lasting_workspace: Path
) -> None:
    """`regsearch sync` would leave it alone."""
    assert finished.verdict
    client = MlflowClient()
    champion = client.get_model_version_by_alias("tiny-cnn", "champion").version
    run = client.create_run(client.create_experiment("rival"))
    other = client.create_model_version("tiny-cnn", run.info.artifact_uri, run.info.run_id).version
    client.set_registered_model_alias("tiny-cnn", "champion", other)
    text = Page(report(lasting_workspace)).text
    client.set_registered_model_alias("tiny-cnn", "champion", champion)
    client.delete_model_version("tiny-cnn", other)
    assert f"is not this model but version {other} of the study rival" in text
    assert "--set registry.model_name=NAME registers it under a name of its own" in text
    assert "regsearch sync tiny registers it" not in text
