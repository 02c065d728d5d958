"""A trial trained again from its record: the same numbers, or how far they are off and why."""

from __future__ import annotations

import errno
import io
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from pipeline.checkpoints import CheckpointStore
from pipeline.cli import app
from pipeline.datasets import load_splits
from pipeline.errors import UserError
from pipeline.events import EpochEnded
from pipeline.journal import JournalWriter, journal_folder
from pipeline.progress import LogView
from pipeline.recorded_trial import Record, find_record
from pipeline.report.reproduction import reproduction_report
from pipeline.reproduction import Difference, Reproduction, compare, reproduce
from pipeline.study.carried import CARRIED_FROM
from pipeline.study.claim import Claim
from pipeline.study.followup import FollowUp, Point
from pipeline.study.ledger import Ledger
from pipeline.study.record import remember, remember_settings, versions
from pipeline.study.storage import open_storage
from pipeline.trainers import Trainers
from pipeline.training.data import DeviceData
from pipeline.training.loop import Trainer
from pipeline.trial import TrialRunner
from pipeline.weights import WeightStore
from tests.spaces import tiny_space

STORAGE = "sqlite:///mlruns/optuna.db"
RESUMED, PRUNED, FAILED, CARRIED, WAITING = range(5)
MEASURED = {"threads": 2, "precision": "float32", "engine": "eager"}


@dataclass
class Trained:
    """A study with a trial of every kind, two of which were trained to an end, and a follow-up."""

    folder: Path
    ledger: Ledger
    followup: FollowUp

    def again(self, number: int, kind: str = "", **changes: Any) -> tuple[Reproduction, list[int]]:
        """A trial trained again, and how many threads there were at the end of each epoch."""
        threads: list[int] = []
        record = replace(find_record(STORAGE, "tiny", number, kind), **changes)
        view = LogView(Console(quiet=True))
        result = reproduce(record, view, lambda *_: threads.append(torch.get_num_threads()))
        return result, threads


def runner_of(ledger: Ledger) -> TrialRunner:
    """As a worker makes it, in this process."""
    config = ledger.config.with_overrides({"training.precision": "float32"})
    splits = load_splits(config.data, config.study.seed)
    data = DeviceData.from_splits(splits, torch.device("cpu"), config.study.seed)
    stores = CheckpointStore(ledger.uuid), WeightStore(ledger.uuid)
    journal = JournalWriter(journal_folder(ledger.uuid))
    trainers = Trainers(config, data, journal.note)
    return TrialRunner(trainers, ledger, journal, *stores, worker="worker 1")


def next_of(ledger: Ledger) -> Claim:
    claim = ledger.claim()
    assert claim is not None
    return claim


def once(epoch: int, action: Callable[[], bool]) -> Callable[..., bool]:
    """A `Ledger.report` that does something else once an epoch is in the books."""
    report = Ledger.report

    def reported(ledger: Ledger, claim: Claim, now: int, value: float) -> bool:
        prune = report(ledger, claim, now, value)
        return action() if now == epoch else prune

    return reported


def interrupt() -> bool:
    raise KeyboardInterrupt


def fail(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trained]:
    folder = tmp_path_factory.mktemp("reproduction")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        space = tiny_space(folder, "study.checkpoint_sec=0.0", "training.epochs=4")
        ledger = Ledger(space.config, open_storage(STORAGE))
        remember_settings(ledger)
        remember(ledger, space, {})
        ledger.keep("tags", {"regsearch.device": "cpu"})
        ledger.fixed("calibration", lambda: MEASURED)
        ledger.require_same_data(load_splits(space.config.data, space.config.study.seed).digest)
        torch.set_num_threads(MEASURED["threads"])
        train_all(ledger, patch)
        followup = FollowUp(ledger.config, ledger.store, "finalists")
        followup.fixed("data_digest", lambda: ledger.recorded("data_digest"))
        followup.add([Point("recipe", "finalists/1", {"regularization.dropout": 0.5})])
        runner_of(followup).run(next_of(followup))
        torch.set_num_threads(1)
        yield Trained(folder, ledger, followup)
        ledger.store.close()


def train_all(ledger: Ledger, patch: pytest.MonkeyPatch) -> None:
    """Each trial in its way (see the names of their numbers)."""
    runner = runner_of(ledger)
    with patch.context() as broken_off:
        broken_off.setattr(Ledger, "report", once(3, interrupt))
        with pytest.raises(KeyboardInterrupt):
            runner.run(next_of(ledger))
    assert runner.run(next_of(ledger)).state == "COMPLETE"
    with patch.context() as pruned:
        pruned.setattr(Ledger, "report", once(2, lambda: True))
        assert runner.run(next_of(ledger)).state == "PRUNED"
    with patch.context() as failing:
        failing.setattr(Trainer, "fit", fail)
        assert runner.run(next_of(ledger)).state == "FAIL"
    from_elsewhere = {CARRIED_FROM: "old/12"}
    ledger.study.add_trial(optuna.create_trial(value=0.5, user_attrs=from_elsewhere))
    ledger.study.enqueue_trial({})


def test_a_resumed_trial_comes_out_the_same_bit_for_bit_with_the_studys_threads(
    study: Trained,
) -> None:
    """Interrupted after its third epoch, which no checkpoint had: it is on record twice."""
    result, threads = study.again(RESUMED)
    assert [event.epoch for event in result.record.epochs] == [1, 2, 3, 3, 4]
    assert [event.attempt for event in result.record.epochs] == [1, 1, 1, 2, 2]
    assert result.identical
    assert {"train/loss", "validation/accuracy", "gradient_norm", "learning_rate"} <= {
        found.metric for found in result.differences
    }
    assert {found.size for found in result.differences} == {0.0}
    assert threads == [2, 2, 2, 2]
    assert torch.get_num_threads() == 1
    assert result.record.changes == []


def test_a_pruned_trial_is_trained_as_far_as_it_came(study: Trained) -> None:
    result, threads = study.again(PRUNED)
    assert list(result.again) == [1, 2]
    assert len(threads) == 2
    assert result.identical


def test_a_training_of_the_finalists_draws_from_its_own_streams(study: Trained) -> None:
    """The recipe is trial 1 of the search; its curve is another one there."""
    result, _ = study.again(0, "finalists")
    assert result.identical
    assert result.record.name == "tiny/finalists: recipe, seed 1"
    searched, _ = study.again(PRUNED)
    assert searched.record.overrides.items() <= {"regularization.dropout": 0.5}.items()
    assert searched.again[1]["train/loss"] != result.again[1]["train/loss"]


def test_other_seeds_or_settings_are_not_identical(study: Trained) -> None:
    assert not study.again(PRUNED, seed=7)[0].identical
    assert not study.again(PRUNED, overrides={"regularization.dropout": 0.51})[0].identical


def test_a_training_that_ends_before_the_record_is_not_identical(study: Trained) -> None:
    result, _ = study.again(RESUMED, overrides={"training.epochs": 2})
    assert list(result.again) == [1, 2]
    assert not result.identical
    assert result.ended == "it stopped early, after epoch 2"
    nan, _ = study.again(RESUMED, overrides={"training.optimizer.learning_rate": 1e38})
    assert not nan.identical
    assert "is nan in epoch 1" in nan.ended


def epochs(*curve: Mapping[str, float]) -> list[EpochEnded]:
    return [EpochEnded(0, 1, epoch, metrics, 0) for epoch, metrics in enumerate(curve, start=1)]


def test_the_largest_difference_of_each_metric_and_its_epoch() -> None:
    recorded = epochs(
        {"loss": 1.0, "accuracy": 0.5, "epoch_sec": 1.0, "images_per_sec": 100.0, "old": 1.0},
        {"loss": 0.5, "accuracy": 0.5, "epoch_sec": 1.0, "images_per_sec": 100.0, "old": 1.0},
    )
    again: dict[int, Mapping[str, float]] = {
        1: {"loss": 1.25, "accuracy": 0.5, "epoch_sec": 9.0, "images_per_sec": 9.0, "new": 1.0},
        2: {"loss": 0.0, "accuracy": 0.5, "epoch_sec": 9.0, "images_per_sec": 9.0, "new": 1.0},
    }
    accuracy, loss = compare(recorded, again)
    assert accuracy == Difference("accuracy", 1, 0.5, 0.5)
    assert accuracy.size == 0
    assert loss == Difference("loss", 2, 0.5, 0.0)
    assert loss.size == 0.5
    (only,) = compare(recorded, {1: {"loss": 1.25}})
    assert (only.epoch, only.size) == (1, 0.25)


def test_the_smallest_difference_there_is_counts_and_no_number_is_infinitely_far() -> None:
    assert Difference("loss", 1, 0.1 + 0.2, 0.3).size > 0
    assert Difference("loss", 1, float("nan"), 0.3).size == float("inf")


def everything(folder: Path) -> dict[str, object]:
    """Every file below a folder, and every row of the study's store."""
    files: dict[str, object] = {
        str(path): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith("optuna.db")
    }
    connection = sqlite3.connect(folder / "mlruns" / "optuna.db")
    files["rows"] = list(connection.iterdump())
    connection.close()
    return files


def test_nothing_is_written(study: Trained) -> None:
    before = everything(study.folder)
    assert any("journal" in name for name in before)
    study.again(RESUMED)
    study.again(0, "finalists")
    with pytest.raises(UserError):
        study.again(0, "ablation")
    assert everything(study.folder) == before


@pytest.mark.parametrize(
    ("name", "number", "kind", "message"),
    [
        ("tiny", 5, "", "rule: a number from 0 to 4"),
        ("tiny", FAILED, "", "no epoch to compare with: it failed before (disk full"),
        ("tiny", WAITING, "", "no epoch to compare with: it only waits"),
        ("tiny", CARRIED, "", "carried over from the study 'old', where it is trial 12"),
        ("tiny", CARRIED, "", "regsearch reproduce old 12"),
        ("tiny", 0, "ablation", "rule: it has finalists"),
        ("tiny", 1, "finalists", "'tiny/finalists' has no trial 1"),
        ("tiny", 1, "finalists", "do:   name one of 0 (recipe, seed 1)"),
        ("other", 0, "", "the store has no study 'other'"),
    ],
)
@pytest.mark.usefixtures("study")
def test_what_cannot_be_trained_again_is_told_with_the_rule(
    name: str, number: int, kind: str, message: str
) -> None:
    with pytest.raises(UserError) as error:
        find_record(STORAGE, name, number, kind)
    assert message in str(error.value)


def test_other_images_are_refused(study: Trained) -> None:
    with pytest.raises(UserError, match="the images have changed since"):
        study.again(PRUNED, digest="0123456789abcdef")


def test_what_has_changed_since_is_named(study: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger, before = study.ledger, versions()
    try:
        ledger.keep("versions", before | {"torch": "2.9.9"})
        ledger.keep("tags", {"regsearch.device": "NVIDIA H100"})
        monkeypatch.setattr("pipeline.recorded_trial.new_owner", lambda: "elsewhere|boot|1|2|3")
        record = find_record(STORAGE, "tiny", PRUNED)
    finally:
        ledger.keep("versions", before)
        ledger.keep("tags", {"regsearch.device": "cpu"})
    torch_line, device_line, machine_line = record.changes
    assert torch_line == f"torch was 2.9.9 when the study began, and is {before['torch']}"
    assert device_line == "the device was NVIDIA H100, and is cpu"
    assert machine_line == f"the machine was {os.uname().nodename}, and is elsewhere"


def printed(record: Record, again: Mapping[str, float], ended: str = "") -> str:
    found = list(compare(record.epochs, {1: again}))
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(reproduction_report(Reproduction(record, {1: again}, found, ended)))
    return " ".join(console.export_text().split())


@pytest.mark.usefixtures("study")
def test_the_report_says_how_far_it_is_off_and_what_may_be_why() -> None:
    found = find_record(STORAGE, "tiny", PRUNED)
    record = replace(found, epochs=epochs({"loss": 1.0, "accuracy": 0.5}), changes=["torch was x"])
    off = printed(record, {"loss": 1.25, "accuracy": 0.5})
    assert "accuracy none" in off
    assert "loss 0.25 1 1 not the same: 1 of 2 metrics differ" in off
    assert "this has changed, and may be why: torch was x" in off
    same = printed(record, {"loss": 1.0, "accuracy": 0.5})
    assert "identical, bit for bit: 2 metrics in 1 epochs though this has changed" in same
    bare = replace(record, changes=[])
    assert "look for a change of the code" in printed(bare, {"loss": 1.25})
    on_gpu = replace(bare, device="cuda:0")
    assert "a GPU may add in another order" in printed(on_gpu, {"loss": 1.25})


def test_the_command_tells_it_epoch_by_epoch_and_by_its_exit_code(study: Trained) -> None:
    run = CliRunner()
    same = run.invoke(app, ["reproduce", "tiny", str(PRUNED)])
    assert same.exit_code == 0, same.output
    assert "epoch 1 of 2: identical" in same.output
    assert "epoch 2 of 2: identical" in same.output
    assert "identical, bit for bit" in same.output
    journal = JournalWriter(journal_folder(study.ledger.uuid))
    journal.put(EpochEnded(PRUNED, 2, 2, {"train/loss": -1.0}, 0))
    journal.close()
    other = run.invoke(app, ["reproduce", "tiny", str(PRUNED)])
    assert other.exit_code == 1
    assert "epoch 1 of 2: identical" in other.output
    assert "(train/loss)" in other.output
    assert "not the same: 1 of" in other.output


def test_a_lost_journal_leaves_the_stores_metric_to_compare_with(study: Trained) -> None:
    """The last test: it takes the journal away."""
    shutil.rmtree(journal_folder(study.ledger.uuid))
    result, _ = study.again(RESUMED)
    assert [found.metric for found in result.differences] == ["validation/accuracy"]
    assert result.identical
    assert result.record.notes == [
        "the journal lacks 4 epochs, of which validation/accuracy alone is known"
    ]
