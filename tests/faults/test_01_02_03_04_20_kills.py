"""Contract rows 1 to 4 and 20: kill -9 of workers, of the coordinator, of everything.

The seed of the chance is printed; `REGSEARCH_TEST_SEED` sets it.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from optuna import load_study
from optuna.trial import FrozenTrial, TrialState

from pipeline.calibration import as_trained, measured_for
from pipeline.config import RunConfig
from pipeline.datasets import load_splits
from pipeline.study.storage import open_storage
from pipeline.study.store import ATTEMPT, HISTORY
from pipeline.study.trials import OVERRIDES
from pipeline.trainers import Trainers
from pipeline.training.data import DeviceData
from tests.commands import regsearch_here
from tests.faults.players import players
from tests.faults.searches import (
    Search,
    attempts,
    environment,
    kill_a_worker,
    mlflow_runs,
    trials,
    wait_until,
)
from tests.spaces import tiny_config, write_tiny

NUM_EPOCHS = 30
SETTINGS = (
    "training.early_stopping.patience=100",
    "study.checkpoint_sec=0.0",
    "training.precision=float32",  # else bfloat16 on machines where that was measured to be faster
)


def arguments(
    num_trials: int, workers: int, epochs: str = f"training.epochs={NUM_EPOCHS}"
) -> list[str]:
    settings = [word for setting in (epochs, *SETTINGS) for word in ("--set", setting)]
    return ["tiny.yaml", "--trials", str(num_trials), "--workers", str(workers), *settings]


@pytest.mark.parametrize(
    ("num_trials", "workers", "kills", "group_kills"),
    [
        pytest.param(8, 2, 5, 1, id="5 kills"),
        pytest.param(
            60, 4, 100, 5, id="100 kills", marks=[pytest.mark.slow, pytest.mark.timeout(1500)]
        ),
    ],
)
def test_a_study_that_is_killed_again_and_again_ends_as_if_it_had_not_been(
    workspace: Path, num_trials: int, workers: int, kills: int, group_kills: int
) -> None:
    seed = int(os.environ.get("REGSEARCH_TEST_SEED", time.time_ns() % 100_000))
    print(f"REGSEARCH_TEST_SEED={seed}")
    write_tiny(workspace)
    search, done, num_trials = play_havoc(
        random.Random(seed), num_trials, workers, kills, group_kills
    )
    assert search.finish(600) == 0, Path("run.log").read_text()[-3000:]
    print(f"killed {done['worker']} workers and {done['group']} groups; {num_trials} trials")
    assert done == {"worker": kills, "group": group_kills}
    check_the_study(num_trials)
    check_resumed()
    check_curves(workspace)
    check_mlflow(num_trials)
    doctor = regsearch_here("doctor", cwd=workspace)
    assert (doctor.returncode, doctor.stdout.strip()) == (0, "Nothing is wrong."), doctor.stdout


def play_havoc(
    chance: random.Random, num_trials: int, workers: int, kills: int, group_kills: int
) -> tuple[Search, Counter[str], int]:
    """Kill so many workers and whole groups at random moments, and start the latter anew.

    A moment is so many epochs of the study, in its first half, and a little later. A study that was
    quicker than its killer goes on to more trials: how many it has in the end is told, too.
    """
    search, done = Search(arguments(num_trials, workers)), Counter[str]()
    moments = sorted(chance.sample(range(1, num_trials * NUM_EPOCHS // 2), kills))
    groups_at = set(chance.sample(range(1, kills), group_kills))
    for moment in moments:
        while num_epochs() < moment or kill_a_worker(chance) is None:
            if search.is_over():
                assert search.finish() == 0, Path("run.log").read_text()[-3000:]
                num_trials += workers
                search = Search(arguments(num_trials, workers))
            time.sleep(chance.uniform(0.0, 0.05))
        done["worker"] += 1
        if done["worker"] in groups_at:
            time.sleep(chance.uniform(0.0, 1.0))
            search.kill()
            done["group"] += 1
            search.start()
    return search, done, num_trials


def num_epochs() -> int:
    """That all trials together have reported."""
    return sum(len(trial.intermediate_values) for trial in trials())


def check_the_study(num_trials: int) -> None:
    """Exactly so many finished trials, each once; nothing else."""
    states = Counter(trial.state.name for trial in trials())
    assert states["COMPLETE"] + states["PRUNED"] == num_trials == states.total(), states
    assert [trial.number for trial in trials()] == list(range(num_trials))


def check_resumed() -> None:
    """Each attempt went on where the one before was killed, but for the epoch that it was in."""
    ended = {
        t.number: {h["attempt"]: h["epoch"] for h in t.user_attrs.get(HISTORY, [])}
        for t in trials()
    }
    resumed = 0
    for number, starts in attempts().items():
        for start in starts[1:]:
            before = max((e for a, e in ended[number].items() if a < start.attempt), default=0)
            after = int(start.tags.get("regsearch.resumed_after_epoch", 0))
            assert before - 1 <= after <= before, (number, start.attempt)
            resumed += after > 0
    assert resumed > 0
    print(f"resumed {resumed} times")


def check_curves(folder: Path) -> None:
    """Row 4: a trial that was killed has, to the last bit, the curve of one that was not."""
    config = tiny_config(folder, f"training.epochs={NUM_EPOCHS}", *SETTINGS)
    with closing(open_storage(f"sqlite:///{folder}/mlruns/optuna.db")) as store:
        study = load_study(study_name=config.study.name, storage=store)
        config = as_trained(config, measured_for(study.user_attrs, "cpu"))
    torch.set_num_threads(1)
    splits = load_splits(config.data, config.study.seed)
    data = DeviceData.from_splits(splits, torch.device("cpu"), config.study.seed)
    killed = [trial for trial in trials() if len(trial.user_attrs.get(HISTORY, [])) > 0]
    assert killed
    for trial in killed[:5]:
        assert trial.intermediate_values == unbroken_curve(config, data, trial)


def unbroken_curve(config: RunConfig, data: DeviceData, trial: FrozenTrial) -> dict[int, float]:
    own = config.with_overrides(trial.user_attrs.get(OVERRIDES, trial.params))
    curve: dict[int, float] = {}

    def report(epoch: int, metrics: Any) -> None:
        curve[epoch] = metrics["validation/accuracy"]

    Trainers(config, data).make(own, trial.number).fit(report)
    return {epoch: curve[epoch] for epoch in trial.intermediate_values}


def check_mlflow(num_trials: int) -> None:
    """One run a trial, none open, one point an epoch; a champion that can be loaded."""
    client = MlflowClient()
    (study,) = mlflow_runs("study")
    runs = mlflow_runs("trial")
    assert study.info.status == "FINISHED"
    numbers = sorted(int(run.data.tags["regsearch.trial"]) for run in runs)
    assert numbers == list(range(num_trials))
    stored = {trial.number: trial for trial in trials()}
    for run in runs:
        trial = stored[int(run.data.tags["regsearch.trial"])]
        assert run.data.tags["regsearch.state"] == trial.state.name
        assert run.info.status == ("FINISHED" if trial.state.name == "COMPLETE" else "KILLED")
        assert run.data.tags["regsearch.attempt"] == str(trial.user_attrs[ATTEMPT])
        points = client.get_metric_history(run.info.run_id, "validation/accuracy")
        assert {p.step: p.value for p in points} == trial.intermediate_values
        assert len(points) == len(trial.intermediate_values)
    version = client.get_model_version_by_alias("tiny-cnn", "champion")
    best = max(
        (t for t in stored.values() if t.state == TrialState.COMPLETE), key=lambda t: t.value
    )
    assert client.get_run(version.run_id).data.tags["regsearch.trial"] == str(best.number)
    model = mlflow.pyfunc.load_model("models:/tiny-cnn@champion")
    assert model.predict(np.zeros((3, 1, 8, 8), np.float32)).shape == (3, 10)


def test_row_2_killed_right_after_the_claim(tmp_path: Path) -> None:
    """Before its first heartbeat would be due: the claim itself is one."""
    url = f"sqlite:///{tmp_path}/optuna.db"
    with players(2) as (victim, other):
        assert victim.ask(do="claim", url=url, count=1) == [0]
        victim.process.kill()
        victim.process.wait()
        assert other.ask(do="sweep", url=url) == [0]
        assert other.ask(do="claim", url=url, count=1) == [0]


@pytest.mark.slow
def test_row_20_what_a_crash_left_open_is_told_by_status_and_closed_by_doctor(
    workspace: Path,
) -> None:
    write_tiny(workspace)
    search = Search(arguments(8, 1, "training.epochs=3000"))  # killed in it, not after it
    wait_until(lambda: any(t.intermediate_values for t in trials()))
    told = regsearch("status", "tiny")
    search.kill()
    assert told.returncode == 0, told.stderr
    assert "of 8 trials finished" in told.stdout
    assert "1 running" in told.stdout
    assert "on disk: checkpoints" in told.stdout
    assert "its process is gone" in regsearch("status", "tiny").stdout

    found = regsearch("doctor")
    assert found.returncode == 1
    assert "is RUNNING, but nobody runs it" in found.stdout
    assert "regsearch doctor --fix" in found.stdout
    mended = regsearch("doctor", "--fix")
    assert mended.returncode == 0, mended.stdout
    assert "RUNNING" not in {t.state.name for t in trials()}
    assert "WAITING" in {t.state.name for t in trials()}
    runs = [*mlflow_runs("study"), *mlflow_runs("trial")]
    assert "RUNNING" not in {run.info.status for run in runs}
    assert regsearch("doctor").stdout.strip() == "Nothing is wrong."

    unknown = regsearch("status", "none")
    assert unknown.returncode == 2
    assert "it has tiny" in unknown.stderr


def regsearch(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipeline", *arguments]
    return subprocess.run(
        command, env=environment(COLUMNS="120"), capture_output=True, text=True, check=False
    )
