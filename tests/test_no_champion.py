"""Searches whose best trial can't be registered: what is registered and said all the same."""

from __future__ import annotations

import io
from pathlib import Path

import optuna
import pytest
import torch
from mlflow import MlflowClient
from rich.console import Console

from pipeline.coordinator import standing
from pipeline.datasets import load_splits
from pipeline.errors import UserError
from pipeline.final import Crowned
from pipeline.outcome import Outcome
from pipeline.progress import LogView
from pipeline.report.summary import summary
from pipeline.revisit import Means, ablate
from pipeline.scoring import Scorer
from pipeline.search import Options, run_search
from pipeline.study.baselines import BASELINES
from pipeline.study.carried import CARRIED_FROM
from pipeline.study.ledger import Ledger
from pipeline.study.storage import open_storage
from pipeline.training.data import DeviceData, to_device
from tests.spaces import TINY, tiny_config, tiny_space

LEARNS = TINY.replace("learning_rate: 3e-3", "learning_rate: 1e-8").replace(
    "regularization.dropout: {type: float, low: 0.0, high: 0.7}",
    "training.optimizer.learning_rate: {type: float, low: 3e-3, high: 6e-3}",
)
"""The baselines learn nothing, so that a trial of the search is the best."""
HARD = ("study.trials=3", "training.epochs=6", "study.metric=validation/loss")


def search(folder: Path, bound: float, *, extend: bool = False) -> tuple[Outcome, str]:
    console = Console(record=True, width=500, file=io.StringIO())
    space = tiny_space(folder, *HARD, f"study.constraints.validation/loss={bound}", text=LEARNS)
    outcome = run_search(space, Options(num_workers=1, extend=extend), LogView(console))
    console.print(summary(outcome))
    return outcome, " ".join(console.export_text().split())


@pytest.fixture(scope="module")
def infeasible(lasting_workspace: Path) -> tuple[Outcome, str]:
    return search(lasting_workspace, 0.0)


def test_the_baselines_are_registered_where_no_trial_keeps_the_constraints(
    infeasible: tuple[Outcome, str],
) -> None:
    outcome, printed = infeasible
    assert outcome.verdict is None
    assert not outcome.succeeded
    assert set(MlflowClient().get_registered_model("tiny-cnn").aliases) == {*BASELINES}
    assert "so there is no champion" in printed
    assert "models:/tiny-cnn@unregularized, models:/tiny-cnn@recipe" in printed


def test_a_champion_that_breaks_a_later_constraint_is_none_any_more(workspace: Path) -> None:
    """Its alias goes, the tags of all runs are told anew, and nothing is left to take apart."""
    first, _ = search(workspace, 100.0)
    assert first.verdict
    client = MlflowClient()
    assert "champion" in client.get_registered_model("tiny-cnn").aliases
    outcome, printed = search(workspace, 0.0, extend=True)
    assert "so there is no champion" in printed
    assert outcome.verdict is None
    assert set(client.get_registered_model("tiny-cnn").aliases) == {*BASELINES}
    [experiment] = client.search_experiments(filter_string="name = 'tiny'")
    tag = "tags.`regsearch.kind` = 'trial'"
    runs = client.search_runs([experiment.experiment_id], tag)
    assert [run.data.tags["regsearch.feasible"] for run in runs] == ["false"] * 3
    means = Means("sqlite:///mlruns/optuna.db")
    with pytest.raises(UserError, match="has no winner yet"):
        ablate("tiny", means, LogView(Console(quiet=True)), seeds=1, pairs=0, transfer=False)


def test_weights_that_a_stricter_constraint_has_cost_are_said_to_be_gone(
    infeasible: tuple[Outcome, str], lasting_workspace: Path
) -> None:
    """Relaxed by `--extend`: the best trial is one whose weights were of no use when it ended."""
    assert infeasible[0].verdict is None
    outcome, printed = search(lasting_workspace, 100.0, extend=True)
    assert outcome.verdict
    assert outcome.verdict.winner.trial.number == 2
    assert "trial 2 can't be scored: the weights of trial 2 were not kept" in printed
    assert "the champion is not registered: the weights of trial 2 were not kept" in printed
    assert "finalists (`finalists.count`) are trained again" in printed
    assert "Error" not in printed


def test_a_better_trial_of_another_study_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has no weights here, so a baseline is the champion, which is not the best trial."""
    monkeypatch.chdir(tmp_path)
    config = tiny_config(tmp_path, "data.selection_fraction=0")
    store = open_storage(f"sqlite:///{tmp_path}/optuna.db")
    ledger = Ledger(config, store)
    for value in (0.5, 0.6):
        claim = ledger.claim()
        assert claim
        ledger.complete(claim, value)
    older = optuna.create_trial(value=0.9, user_attrs={CARRIED_FROM: "old/12"})
    ledger.study.add_trial(older)
    splits = load_splits(config.data, 0)
    data = DeviceData.from_splits(splits, torch.device("cpu"), 0)
    scorer = Scorer(config, ledger, data, to_device(splits.selection, torch.device("cpu")))
    verdict = scorer.of_the_search()
    assert verdict
    assert verdict.winner.name == "recipe"
    assert verdict.notes[0].startswith("trial 2 (old/12 in its own study) has the best value")
    console = Console(record=True, width=500, file=io.StringIO())
    console.print(summary(Outcome(config, standing(ledger), Crowned(verdict))))
    printed = console.export_text()
    assert "The champion is the baseline recipe: the file's own settings won." in printed
    store.close()
