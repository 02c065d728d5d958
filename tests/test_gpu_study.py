"""A study on a GPU, as a user runs one: its workers measure, compile or capture, and keep books."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest
from mlflow import MlflowClient
from optuna.trial import TrialState

from pipeline.study.followup import open_followup
from pipeline.study.ledger import Ledger
from pipeline.study.storage import open_storage
from tests.commands import regsearch
from tests.spaces import tiny_config, write_tiny

FINAL = ("finalists.count=1", "finalists.seeds=2")


@pytest.mark.gpu
def test_a_study_its_finalists_and_its_champion_run_on_a_gpu(workspace: Path) -> None:
    """Two workers share it, of which one measures."""
    write_tiny(workspace)
    settings = [word for assignment in FINAL for word in ("--set", assignment)]
    command = ("run", "tiny.yaml", "--device", "cuda", "--workers", "2", *settings)
    done = regsearch(*command, cwd=workspace)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    with closing(open_storage("sqlite:///mlruns/optuna.db")) as store:
        ledger = Ledger(tiny_config(workspace, *FINAL), store, begin=False)
        measured = ledger.recorded("gpu_calibration")
        assert measured == {"threads": 0, "precision": "bfloat16", "engine": "captured"}
        assert len(ledger.trials(TrialState.COMPLETE)) == 4
        finalists = open_followup(ledger, "finalists").trials()
        assert {trial.state for trial in finalists} == {TrialState.COMPLETE}
    client = MlflowClient()
    experiment = client.get_experiment_by_name("tiny")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], "tags.`regsearch.kind` = 'study'")
    assert [run.data.tags["regsearch.engine"] for run in runs] == ["captured"]
    scored = regsearch("evaluate", "models:/tiny-cnn@champion", cwd=workspace)
    assert scored.returncode == 0, scored.stderr
