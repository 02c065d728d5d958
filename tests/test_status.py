"""`status`, `doctor` and `sync` look at a study's follow-ups too, of whatever kind."""

from __future__ import annotations

import io
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient
from mlflow.entities import Run
from optuna.trial import TrialState
from rich.console import Console

from pipeline.checkpoints import CheckpointStore
from pipeline.datasets import load_splits
from pipeline.doctor import examine
from pipeline.events import StudyStarted, now_ms
from pipeline.journal import JournalWriter, journal_folder
from pipeline.progress import LogView
from pipeline.report.status import status_report
from pipeline.search import Options, run_search
from pipeline.status import FollowUpStatus, StudyStatus, open_ledgers, study_statuses
from pipeline.study.followup import CHANGES, FollowUp, Point, open_followup
from pipeline.study.ledger import Ledger
from pipeline.study.owner import new_owner
from pipeline.study.store import OWNER
from pipeline.sync import sync_studies
from pipeline.trainers import Trainers
from pipeline.training.data import DeviceData
from pipeline.trial import TrialRunner
from pipeline.weights import WeightStore
from tests.conftest import enter
from tests.spaces import tiny_space

STORAGE = "sqlite:///mlruns/optuna.db"
OFF = {"regularization.dropout": 0.0}


@dataclass
class Broken:
    """A study, with a follow-up whose worker was killed in the second of three trainings."""

    folder: Path
    ledger: Ledger

    def status(self) -> StudyStatus:
        (status,) = study_statuses(STORAGE, "tiny")
        return status

    def printed(self) -> str:
        console = Console(width=120, record=True, file=io.StringIO())
        console.print(status_report([self.status()]))
        return console.export_text()

    def doctor(self, *, fix: bool = False) -> dict[str, bool]:
        """What is found, and whether it was mended."""
        return {finding.text: finding.fixed for finding in examine(STORAGE, "tiny", fix=fix)}


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory, mlflow_template: Path) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("searched")
    shutil.copy(mlflow_template, folder)
    with pytest.MonkeyPatch.context() as patch:
        enter(patch, folder)
        space = tiny_space(folder, "study.trials=2")
        run_search(space, Options(num_workers=1), LogView(Console(quiet=True)))
        ledger = open_study()
        with_ablation(ledger)
        ledger.store.close()
        yield folder


@pytest.fixture
def broken(searched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Broken]:
    """A copy of its own for each test."""
    shutil.copytree(searched, tmp_path / "here")
    enter(monkeypatch, tmp_path / "here")
    ledger = open_study()
    yield Broken(tmp_path / "here", ledger)
    ledger.store.close()


def open_study() -> Ledger:
    (ledger,) = open_ledgers(STORAGE, "tiny")
    return ledger


def with_ablation(ledger: Ledger) -> None:
    """Three points, trained with one epoch more than the search: one done, one broken off."""
    changes = {"training.epochs": 3}
    followup = FollowUp(ledger.config.with_overrides(changes), ledger.store, "ablation")
    followup.fixed(CHANGES.removeprefix("regsearch."), lambda: changes)
    for name in ("dataset", "tags", "versions", "data_digest"):
        followup.fixed(name, partial(ledger.recorded, name))
    followup.fixed("artifacts", dict)
    followup.add([Point("without dropout", f"ablation/{seed}", OFF) for seed in (1, 2, 3)])
    splits = load_splits(followup.config.data, followup.config.study.seed)
    data = DeviceData.from_splits(splits, torch.device("cpu"), followup.config.study.seed)
    journal = JournalWriter(journal_folder(followup.uuid))
    journal.put(StudyStarted(now_ms()))
    stores = CheckpointStore(followup.uuid), WeightStore(followup.uuid)
    trainers = Trainers(followup.config, data)
    runner = TrialRunner(trainers, followup, journal, *stores, worker="worker 1")
    first, second = followup.claim(), followup.claim()
    assert first is not None
    assert second is not None
    assert runner.run(first).state == "COMPLETE"
    stores[0].save(second.number, {"epoch": torch.tensor(1)})
    stores[0].save(first.number, {"epoch": torch.tensor(3)})  # a leftover
    second.trial.set_user_attr(OWNER, owned_by_the_dead())
    journal.close()


def owned_by_the_dead() -> str:
    """A token of a process of this machine that is gone."""
    process = subprocess.Popen(["true"])
    process.wait()
    machine, _, start, chance = new_owner().rsplit("|", 3)
    return "|".join([machine, str(process.pid), start, chance])


def test_status_counts_the_trainings_of_follow_ups(broken: Broken) -> None:
    status = broken.status()
    assert status.running == []
    (ablation,) = status.followups
    assert (ablation.kind, ablation.target) == ("ablation", 3)
    assert (ablation.complete, ablation.waiting, ablation.failed) == (1, 1, 0)
    (running,) = ablation.running
    assert (running.name, running.attempt, running.epoch) == ("without dropout, seed 2", 1, 0)
    assert running.is_dead
    printed = broken.printed()
    assert "ablation: 1 of 3 trainings done (1 running, 1 waiting)" in printed
    row = next(line for line in printed.splitlines() if "without dropout, seed 2" in line)
    assert "its process is gone" in row


def test_a_study_without_follow_ups_tells_of_none(broken: Broken) -> None:
    status = broken.status()
    bare = StudyStatus(status.name, status.standing, 0, [], status.disk_bytes)
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(status_report([bare]))
    assert "trainings" not in console.export_text()


def test_failed_trainings_are_told_and_not_wanted(broken: Broken) -> None:
    """They are queued once more under another number when the follow-up goes on."""
    status = broken.status()
    failed = FollowUpStatus("finalists", target=6, complete=5, failed=1, waiting=1, running=[])
    one = StudyStatus(status.name, status.standing, 0, [], status.disk_bytes, [failed])
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(status_report([one]))
    expected = "finalists: 5 of 6 trainings done (1 waiting, 1 failed)"
    assert expected in console.export_text()


def test_what_follow_ups_have_on_the_disk_counts(broken: Broken) -> None:
    before = broken.status().disk_bytes
    followup = open_followup(broken.ledger, "ablation")
    CheckpointStore(followup.uuid).remove(1)
    WeightStore(followup.uuid).save(2, torch.nn.Linear(1000, 1000))
    after = broken.status().disk_bytes
    assert after["checkpoints"] < before["checkpoints"]
    assert after["weights"] - before["weights"] > 4_000_000
    assert after["journal"] == before["journal"]


def test_doctor_finds_a_follow_ups_stale_trainings_and_mends_them(broken: Broken) -> None:
    stale = "tiny: ablation: without dropout, seed 2 is RUNNING, but nobody runs it"
    leftover = "tiny: ablation: the checkpoint of trial 0 is no longer needed"
    found = broken.doctor()
    assert found.keys() >= {stale, leftover}
    assert not any(found.values())
    assert broken.status().followups[0].running
    mended = broken.doctor(fix=True)
    assert mended.keys() >= {stale, leftover}
    assert all(mended.values())
    followup = open_followup(broken.ledger, "ablation")
    states = [trial.state for trial in followup.trials()]
    assert states == [TrialState.COMPLETE, TrialState.WAITING, TrialState.WAITING]
    assert CheckpointStore(followup.uuid).trials() == [1]  # that of the one that goes on
    assert broken.doctor() == {}


def test_doctor_closes_the_run_of_a_follow_up_that_nobody_works_on(broken: Broken) -> None:
    open_run = "tiny: ablation: the run of the ablation is open, but nobody works on it"
    broken.doctor(fix=True)
    (run,) = runs("ablation")
    assert run.info.status == "KILLED"  # two of its trainings wait
    MlflowClient().set_terminated(run.info.run_id, "RUNNING")
    assert broken.doctor() == {open_run: False}
    assert broken.doctor(fix=True) == {open_run: True}
    assert broken.doctor() == {}


def runs(kind: str) -> list[Run]:
    """The current store's."""
    client = MlflowClient()
    experiment = client.get_experiment_by_name("tiny")
    assert experiment is not None
    wanted = f"tags.`regsearch.kind` = '{kind}'"
    return list(client.search_runs([experiment.experiment_id], wanted))


def test_sync_brings_a_follow_up_of_any_kind_to_a_new_store(
    broken: Broken, mlflow_template: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(mlflow_template, broken.folder / "new.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{broken.folder}/new.db")
    (synced,) = sync_studies(STORAGE, "tiny", LogView(Console(quiet=True)))
    assert synced.complete, synced
    (study,), (ablation,) = runs("study"), runs("ablation")
    assert ablation.data.tags["mlflow.parentRunId"] == study.info.run_id
    nested = {
        run.data.tags["mlflow.runName"]: run
        for run in runs("trial")
        if run.data.tags["mlflow.parentRunId"] == ablation.info.run_id
    }
    done = nested["without dropout, seed 1"]
    assert done.data.tags["regsearch.group"] == "without dropout"
    assert done.info.status == "FINISHED"
    history = MlflowClient().get_metric_history(done.info.run_id, "train/loss")
    assert [point.step for point in history] == [1, 2, 3]


def test_a_follow_up_that_was_killed_at_its_birth_is_in_nobodys_way(broken: Broken) -> None:
    """Its study is in the store, and does not say yet what it is about."""
    FollowUp(broken.ledger.config, broken.ledger.store, "transfer-data")
    (synced,) = sync_studies(STORAGE, "tiny", LogView(Console(quiet=True)))
    assert synced.complete
    assert [followup.kind for followup in broken.status().followups] == ["ablation"]
    assert not any("transfer-data" in text for text in broken.doctor())


def test_the_settings_that_a_follow_up_changed_are_its_own(broken: Broken) -> None:
    assert broken.ledger.config.training.epochs == 2
    assert open_followup(broken.ledger, "ablation").config.training.epochs == 3
