"""How each ending of a trial becomes a state in the store, and an event in the journal."""

from __future__ import annotations

import errno
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from optuna.trial import TrialState

from pipeline.checkpoints import CheckpointStore
from pipeline.config import RunConfig
from pipeline.datasets import load_splits
from pipeline.events import (
    EpochEnded,
    Event,
    Note,
    TrialEnded,
    TrialRequeued,
    TrialScored,
    TrialStarted,
)
from pipeline.interrupts import interrupt, interruptible
from pipeline.journal import JournalReader, JournalWriter, journal_folder
from pipeline.study.claim import Claim
from pipeline.study.ledger import Ledger
from pipeline.study.storage import open_storage
from pipeline.study.store import REASON, Store
from pipeline.trainers import Trainers, build_seeded
from pipeline.training.data import DeviceData
from pipeline.training.loop import NonFiniteLossError, Trainer
from pipeline.training.metrics import SCORES
from pipeline.trial import TrialRunner, failure_reason
from pipeline.weights import WeightStore
from tests.spaces import tiny_config
from tests.trainings import fit, untimed


@dataclass
class Bench:
    """One study with everything that a trial needs."""

    config: RunConfig
    ledger: Ledger
    checkpoints: CheckpointStore
    weights: WeightStore
    runner: TrialRunner
    reader: JournalReader
    events: list[Event] = field(default_factory=list)

    def claim(self) -> Claim:
        claim = self.ledger.claim()
        assert claim is not None
        return claim

    def read(self) -> list[Event]:
        self.events += self.reader.read()
        return self.events

    def curve(self) -> dict[int, dict[str, float]]:
        """What the journal has of trial 0, without times."""
        return {
            event.epoch: {k: v for k, v in event.metrics.items() if not k.endswith("_sec")}
            for event in self.read()
            if isinstance(event, EpochEnded) and event.trial == 0
        }


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.chdir(tmp_path)
    config = tiny_config(tmp_path, "study.checkpoint_sec=0.0")
    splits = load_splits(config.data, config.study.seed)
    data = DeviceData.from_splits(splits, torch.device("cpu"), config.study.seed)
    ledger = Ledger(config, open_storage("sqlite:///mlruns/optuna.db"))
    journal = JournalWriter(journal_folder(ledger.uuid))
    stores = CheckpointStore(ledger.uuid), WeightStore(ledger.uuid)
    trainers = Trainers(config, data, journal.note)
    runner = TrialRunner(trainers, ledger, journal, *stores, worker="worker 1")
    yield Bench(config, ledger, *stores, runner, JournalReader(journal.folder))
    journal.close()
    ledger.store.close()


def raising(error: BaseException) -> Callable[..., None]:
    def fit(*_: object) -> None:
        raise error

    return fit


def stopping_after(epoch: int) -> Callable[..., bool]:
    """A report that is interrupted once the epoch is in the books."""
    report = Ledger.report

    def stop(ledger: Ledger, claim: Claim, now: int, value: float) -> bool:
        prune = report(ledger, claim, now, value)
        if now == epoch:
            raise KeyboardInterrupt
        return prune

    return stop


def test_a_complete_trial_has_its_best_value_and_its_weights(bench: Bench) -> None:
    verdict = bench.runner.run(bench.claim())
    assert verdict.state == "COMPLETE"
    trial = bench.ledger.study.trials[0]
    assert trial.state is TrialState.COMPLETE
    assert trial.value == verdict.value == max(trial.intermediate_values.values())
    assert list(trial.intermediate_values) == [1, 2]
    model = build_seeded(bench.config, bench.runner.trainers.data)
    model.load_state_dict(bench.weights.load(0))
    assert bench.checkpoints.trials() == []


def test_the_journal_has_the_start_every_epoch_and_the_end(bench: Bench) -> None:
    bench.runner.run(bench.claim())
    started, first, second, scored, ended = bench.read()
    assert isinstance(scored, TrialScored)
    assert scored.tags["regsearch.diagnosis"] in ("healthy", "underfitting", "slightly overfitting")
    assert isinstance(started, TrialStarted)
    assert (started.trial, started.attempt, started.num_epochs) == (0, 1, 2)
    assert started.name == "trial 0 (unregularized)"
    assert started.worker == "worker 1"
    assert started.params == {"regularization.dropout": 0.0, "training.optimizer.weight_decay": 0.0}
    assert started.tags == {"regsearch.baseline": "unregularized", "regsearch.device": "cpu"}
    assert isinstance(first, EpochEnded)
    assert isinstance(second, EpochEnded)
    assert (first.epoch, second.epoch) == (1, 2)
    assert (
        first.metrics["validation/accuracy"]
        == (bench.ledger.study.trials[0].intermediate_values[1])
    )
    assert isinstance(ended, TrialEnded)
    assert ended.state == "COMPLETE"
    assert ended.value == bench.ledger.study.trials[0].value


def test_a_pruned_trial_ends_after_the_epoch_that_was_too_bad(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = bench.claim()
    monkeypatch.setattr(Ledger, "report", lambda _self, _claim, epoch, _value: epoch == 1)
    assert bench.runner.run(claim).state == "PRUNED"
    assert bench.ledger.study.trials[0].state is TrialState.PRUNED
    ended = bench.read()[-1]
    assert isinstance(ended, TrialEnded)
    assert (ended.state, ended.reason) == ("PRUNED", "pruned after epoch 1")
    assert not bench.weights.path(0).exists()


def test_a_trial_that_is_pruned_with_updates_under_way_leaves_the_next_one_as_it_is(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU updates are launched before the report; whoever has the step next begins anew."""
    other = bench.claim()
    expected = fit(bench.runner.trainers.make(bench.runner.config, other.seed))[1]
    bench.runner.goes_ahead = True
    bench.runner.config = bench.config.with_overrides({"study.checkpoint_sec": 1e9})
    seen = []

    def prune(*_: object) -> bool:
        [(step, _)] = bench.runner.trainers.steps._steps.values()
        seen.append(int(step.position))
        return True

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "report", prune)
        assert bench.runner.run(other).state == "PRUNED"
    assert seen[0] > 0, "no update was under way"
    again = fit(bench.runner.trainers.make(bench.runner.config, other.seed))[1]
    assert untimed(again) == untimed(expected)


def test_a_state_that_is_due_is_saved_where_updates_go_ahead(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.runner.goes_ahead = True
    saved: list[int] = []
    save = CheckpointStore.save

    def note(store: CheckpointStore, number: int, state: dict[str, Any]) -> None:
        saved.append(state["epoch"])
        save(store, number, state)

    monkeypatch.setattr(CheckpointStore, "save", note)
    bench.runner.run(bench.claim())
    assert saved == [1, 2]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (NonFiniteLossError("train/loss is nan in epoch 1"), "train/loss is nan in epoch 1"),
        (torch.OutOfMemoryError("CUDA out of memory"), "out of memory"),
        (OSError(errno.ENOSPC, "No space left on device"), "disk full"),
        (ZeroDivisionError("a fault"), "ZeroDivisionError: a fault"),
    ],
)
def test_a_failure_is_recorded_with_its_reason_and_the_search_goes_on(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str
) -> None:
    """The errors are raised in place of training: memory and disks that are full for real would
    take the tests along (`tests/faults` has a disk that is)."""
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "fit", raising(error))
        verdict = bench.runner.run(bench.claim())
    assert verdict.state == "FAIL"
    trial = bench.ledger.study.trials[0]
    assert trial.state is TrialState.FAIL
    assert reason in trial.user_attrs[REASON]
    ended = bench.read()[-1]
    assert isinstance(ended, TrialEnded)
    assert ended.state == "FAIL"
    assert reason in ended.reason
    assert bench.runner.run(bench.claim()).state == "COMPLETE"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_row_23_a_loss_that_is_no_number_fails_at_once_and_is_never_the_best(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    scores = Trainer._scores

    def broken(trainer: Trainer) -> torch.Tensor:
        found = scores(trainer)
        found[SCORES.index("accuracy")] = value
        return found

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_scores", broken)
        verdict = bench.runner.run(bench.claim())
    assert verdict.state == "FAIL"
    assert verdict.reason == f"validation/accuracy is {value} in epoch 1"
    bench.runner.run(bench.claim())
    best = bench.ledger.best()
    assert best is not None
    assert best.number == 1


def test_an_unforeseen_failure_keeps_its_traceback() -> None:
    try:
        raise KeyError("some fault")
    except KeyError as error:
        reason = failure_reason(error)
    assert reason.startswith("KeyError: 'some fault'")
    assert "test_an_unforeseen_failure_keeps_its_traceback" in reason


def test_an_interrupted_trial_waits_and_goes_on_from_its_checkpoint(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its curve is that of a trial that was never interrupted."""
    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "report", stopping_after(2))
        with pytest.raises(KeyboardInterrupt):
            bench.runner.run(bench.claim())
    assert bench.ledger.study.trials[0].state is TrialState.WAITING
    requeued = bench.read()[-1]
    assert isinstance(requeued, TrialRequeued)
    assert (requeued.trial, requeued.attempt, requeued.reason) == (0, 1, "interrupted")
    again = bench.claim()
    assert (again.number, again.attempt, again.baseline) == (0, 2, "unregularized")
    first_epoch_trained = []
    train = Trainer._train_epoch
    monkeypatch.setattr(
        Trainer, "_train_epoch", lambda t: first_epoch_trained.append(t.epoch) or train(t)
    )
    assert bench.runner.run(again).state == "COMPLETE"
    assert first_epoch_trained == [2]  # the first was in the checkpoint
    restarted = [e for e in bench.read() if isinstance(e, TrialStarted)][1]
    assert restarted.tags["regsearch.resumed_after_epoch"] == "1"
    unbroken = bench.ledger.study.trials[0].intermediate_values
    assert list(unbroken) == [1, 2]


def test_an_interrupt_that_a_library_drops_ends_the_trial_with_its_epoch(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = Ledger.report

    def dropping(*told: Any) -> bool:
        with suppress(KeyboardInterrupt):
            interrupt(KeyboardInterrupt)
        return report(*told)

    monkeypatch.setattr(Ledger, "report", dropping)
    with pytest.raises(KeyboardInterrupt), interruptible():
        bench.runner.run(bench.claim())
    [trial, *_] = bench.ledger.study.trials
    assert trial.state is TrialState.WAITING
    assert list(trial.intermediate_values) == [1]
    assert bench.checkpoints.trials() == [0]


class Stop:
    """A tracer that interrupts the store's step, or a library below it, at its n-th line."""

    def __init__(self, at: int) -> None:
        self.at, self.num_lines = at, 0

    def __call__(self, _: FrameType, event: str, __: object) -> Stop:
        self.num_lines += event == "line"
        if self.num_lines == self.at:
            self.at = -1
            interrupt(KeyboardInterrupt)
        return self


@pytest.mark.parametrize("every", [1201, pytest.param(97, marks=pytest.mark.slow)])
def test_wherever_a_stop_comes_in_a_report_the_trial_is_given_back(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, every: int
) -> None:
    """After 1, 1 + `every`, ... lines of it. SQLAlchemy, cut short, may leave SQLite locked
    by this very process."""
    report, tracer = Store.report, Stop(at=-1)
    metrics = {"validation/accuracy": 0.5}

    def traced(*told: Any) -> None:
        sys.settrace(tracer)
        try:
            report(*told)
        finally:
            sys.settrace(None)

    monkeypatch.setattr(Store, "report", traced)

    def fit(_: object, told: Callable[..., None], *__: object) -> None:
        told(1, metrics)
        time.sleep(10)  # what is lost in a finalizer is sent again

    monkeypatch.setattr(Trainer, "fit", fit)
    bench.ledger.store.patience_sec = 0.2
    for _ in range(2):  # the first time, statements are compiled
        claim, tracer = bench.claim(), Stop(at=-1)
        bench.ledger.report(claim, 1, 0.5)
        bench.ledger.give_back(claim, "")
    points = range(1, tracer.num_lines, every)
    assert len(points) > 3
    for at in points:
        tracer = Stop(at)
        with pytest.raises(KeyboardInterrupt), interruptible():
            bench.runner.run(bench.claim())
        states = [trial.state for trial in bench.ledger.trials()]
        assert TrialState.RUNNING not in states, f"line {at}"


def test_a_failure_that_an_interrupt_was_lost_in_is_none(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fit(*_: object) -> None:
        with suppress(KeyboardInterrupt):
            interrupt(KeyboardInterrupt)
        raise ValueError("what a library makes of it")

    monkeypatch.setattr(Trainer, "fit", fit)
    with pytest.raises(KeyboardInterrupt), interruptible():
        bench.runner.run(bench.claim())
    assert bench.ledger.study.trials[0].state is TrialState.WAITING


def test_row_16_a_damaged_checkpoint_is_told_and_the_trial_starts_from_zero(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "report", stopping_after(2))
        with pytest.raises(KeyboardInterrupt):
            bench.runner.run(bench.claim())
    curve = bench.curve()
    path = bench.checkpoints.path(0)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert bench.runner.run(bench.claim()).state == "COMPLETE"
    notes = [event.text for event in bench.read() if isinstance(event, Note)]
    assert len(notes) == 1
    assert notes[0].endswith("it starts from zero")
    assert bench.curve() == curve  # the same again, since its seeds are the trial's


def test_a_lost_claim_is_dropped_without_a_trace(bench: Bench) -> None:
    """Row 5: another has the trial by the time that this worker reports."""
    claim = bench.claim()
    bench.ledger.give_back(claim, "its worker was not heard of for 60 s")
    other = bench.claim()
    assert bench.runner.run(claim).state == "LOST"
    assert not any(isinstance(event, TrialEnded) for event in bench.read())
    assert bench.ledger.study.trials[0].state is TrialState.RUNNING
    assert bench.runner.run(other).state == "COMPLETE"


def test_the_same_trial_trains_the_same_whatever_ran_before(bench: Bench) -> None:
    claim = bench.claim()
    torch.manual_seed(12345)
    torch.rand(7)
    bench.runner.run(claim)
    curve = bench.curve()
    bench.events.clear()
    bench.runner.run(bench.claim())
    config = bench.config.with_overrides(claim.overrides)
    assert curve
    again: dict[int, dict[str, float]] = {}
    bench.runner._trainer(claim, config, None).fit(
        lambda epoch, metrics: again.update(
            {epoch: {k: v for k, v in metrics.items() if not k.endswith("_sec")}}
        )
    )
    assert again == curve


def test_only_the_best_and_the_baselines_keep_their_weights(bench: Bench) -> None:
    """Of a study of 4 trials, the best five are all."""
    for _ in range(4):
        bench.runner.run(bench.claim())
    assert bench.weights.trials() == [0, 1, 2, 3]


def test_damaged_weights_are_never_executed(bench: Bench, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "executed",))

    bench.weights.folder.mkdir(parents=True)
    torch.save({"weight": Evil()}, bench.weights.path(5))
    with pytest.raises(Exception, match=r"no state file|not a state"):
        bench.weights.load(5)
    assert not (tmp_path / "executed").exists()
