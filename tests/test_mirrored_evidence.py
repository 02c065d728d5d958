"""The pruning audit and the finalists' weights in MLflow, and in another one after a sync."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from rich.console import Console

from pipeline.outcome import Outcome
from pipeline.progress import LogView
from pipeline.search import Options, run_search
from pipeline.study.followup import WEIGHTS
from pipeline.sync import sync_studies
from tests.spaces import TINY, tiny_space

SETTINGS = ("study.trials=6", "finalists.count=1", "finalists.seeds=2", "study.audit_fraction=0.5")
STRICT = TINY.replace("{kind: none}", "{kind: threshold, lower: 0.999, warmup_epochs: 0}")
"""Stops every trial but the baselines, unless it is audited."""
QUIET = LogView(Console(quiet=True))


@pytest.fixture(scope="module")
def outcome(lasting_workspace: Path) -> Outcome:
    return run_search(tiny_space(lasting_workspace, *SETTINGS, text=STRICT), Options(), QUIET)


def runs(kind: str) -> list[Run]:
    client = MlflowClient()
    experiment = client.get_experiment_by_name("tiny")
    assert experiment
    wanted = f"tags.`regsearch.kind` = '{kind}'"
    return list(client.search_runs([experiment.experiment_id], wanted))


def require_evidence(outcome: Outcome) -> None:
    """All of it is in the current MLflow store."""
    found, verdict = outcome.audit, outcome.verdict
    assert found
    assert verdict
    (study,) = runs("study")
    assert found.num_audited >= 1
    assert found.num_audited + found.num_pruned == 4  # all but the baselines
    audited = {k: v for k, v in study.data.metrics.items() if k in found.metrics()}
    assert audited == found.metrics()
    assert audited["pruning/audited"] == found.num_audited
    assert study.data.tags["regsearch.pruning_audit"] == found.advice
    by_name = {run.info.run_name: run for run in runs("trial")}
    trainings = {
        f"{finalist.name}, seed {seed}": training
        for finalist in verdict.finalists
        for seed, training in enumerate(finalist.trainings, 1)
    }
    assert len(trainings) >= 4
    for name, training in trainings.items():
        uri = f"runs:/{by_name[name].info.run_id}/weights.json"
        table = json.loads(mlflow.artifacts.load_text(uri))
        rows = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
        assert rows == training.user_attrs[WEIGHTS]
        assert {"layer", "mean_abs", "std", "near_zero_share"} <= set(table["columns"])
    tables = [run for run in by_name.values() if "mlflow.loggedArtifacts" in run.data.tags]
    assert {run.info.run_name for run in tables} == set(trainings)  # the search's trials have none


def test_mlflow_has_the_audit_and_each_finalists_weights(outcome: Outcome) -> None:
    require_evidence(outcome)


def test_so_has_another_mlflow_once_it_is_synced(
    outcome: Outcome,
    lasting_workspace: Path,
    mlflow_template: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copy(mlflow_template, lasting_workspace / "new.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{lasting_workspace}/new.db")
    (synced,) = sync_studies("sqlite:///mlruns/optuna.db", "tiny", QUIET)
    assert synced.complete, synced
    assert synced.findings == []  # all of it came from the journal, and nothing had to be mended
    require_evidence(outcome)
