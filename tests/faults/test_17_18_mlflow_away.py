"""Contract rows 17 and 18: the MLflow server goes away in mid-study, for a while or for good."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from pipeline.events import TrialEnded
from tests.faults.searches import (
    Search,
    environment,
    journal,
    mlflow_runs,
    stalls_sec,
    trials,
    wait_until,
)
from tests.mlflow_server import Server
from tests.spaces import write_tiny

ARGUMENTS = ("tiny.yaml", "--trials", "6", "--workers", "1", "--set")
EPOCHS = ("--set", "training.early_stopping.patience=1000")


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server"))
    server.start()
    yield server
    server.stop()


def points(client: MlflowClient) -> dict[int, dict[int, float]]:
    """MLflow's curve of each trial; a point that is there twice would be an error."""
    found: dict[int, dict[int, float]] = {}
    for run in mlflow_runs("trial", client):
        history = client.get_metric_history(run.info.run_id, "validation/accuracy")
        curve = {point.step: point.value for point in history}
        assert len(curve) == len(history)
        found[int(run.data.tags["regsearch.trial"])] = curve
    return found


def stored() -> dict[int, dict[int, float]]:
    return {trial.number: trial.intermediate_values for trial in trials()}


@pytest.mark.parametrize(
    ("away_sec", "epochs"),
    [
        pytest.param(5, 300, id="5 s", marks=pytest.mark.slow),
        pytest.param(60, 700, id="60 s", marks=[pytest.mark.slow, pytest.mark.timeout(900)]),
    ],
)
def test_row_17_a_server_that_comes_back_gets_everything_and_no_epoch_waited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: Server, away_sec: float, epochs: int
) -> None:
    monkeypatch.chdir(tmp_path)
    write_tiny(tmp_path)
    search = Search(
        (*ARGUMENTS, f"training.epochs={epochs}", *EPOCHS), {"MLFLOW_TRACKING_URI": server.url}
    )
    wait_until(lambda: any(trial.intermediate_values for trial in trials()))
    away = time.time()
    server.stop()
    time.sleep(away_sec)
    server.start()
    back = time.time()
    assert search.finish(800) == 0, Path("run.log").read_text()[-3000:]
    assert points(MlflowClient(server.url)) == stored()
    stalls = stalls_sec(away, back)
    assert len(stalls) > 10, "it did not train on"
    print(
        f"away for {back - away:.0f} s: {len(stalls)} epochs, the longest stall {max(stalls):.3f} s"
    )
    assert max(stalls) < 1.0


@pytest.mark.slow
def test_row_18_a_server_that_stays_away_keeps_nobody_and_a_new_one_gets_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: Server
) -> None:
    monkeypatch.chdir(tmp_path)
    write_tiny(tmp_path)
    search = Search(
        (*ARGUMENTS, "training.epochs=20", *EPOCHS), {"MLFLOW_TRACKING_URI": server.url}
    )
    wait_until(lambda: any(trial.intermediate_values for trial in trials()))
    server.stop()
    code = search.finish()
    ended = time.time()
    log = Path("run.log").read_text()
    assert code == 0, log[-3000:]
    last = max(event.time_ms for event in journal() if isinstance(event, TrialEnded)) / 1000
    print(f"it ended {ended - last:.1f} s after the last trial")
    assert ended - last < 10
    assert "6 of 6 trials finished" in log
    assert "MLflow did not take" in log
    assert "regsearch sync" in log
    new = f"sqlite:///{tmp_path}/new.db"
    command = [sys.executable, "-m", "pipeline", "sync"]
    synced = subprocess.run(
        command, env=environment(MLFLOW_TRACKING_URI=new), capture_output=True, text=True
    )
    assert synced.returncode == 0, synced.stdout + synced.stderr
    assert "MLflow has all of it" in synced.stdout
    client = MlflowClient(new)
    assert points(client) == stored()
    assert {run.info.status for run in mlflow_runs("trial", client)} <= {"FINISHED", "KILLED"}
    assert client.get_model_version_by_alias("tiny-cnn", "champion").run_id
