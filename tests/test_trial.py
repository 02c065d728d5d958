"""How each ending of a trial becomes a state, in the store and in MLflow."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from optuna.trial import TrialState
from rich.console import Console

from pipeline.config import RunConfig
from pipeline.datasets import load_splits
from pipeline.progress import LogView
from pipeline.study.ledger import REASON, Ledger
from pipeline.study.storage import open_storage
from pipeline.tracking import DatasetInfo, Mirror
from pipeline.training.data import DeviceData
from pipeline.training.loop import NonFiniteLossError, Trainer
from pipeline.trial import TrialRunner, failure_reason
from pipeline.weights import WeightStore
from tests.spaces import tiny_config


@dataclass
class Bench:
    """One study with everything that a trial needs."""

    config: RunConfig
    ledger: Ledger
    mirror: Mirror
    weights: WeightStore
    runner: TrialRunner

    def tags(self, number: int) -> tuple[str, dict[str, str]]:
        """A trial's MLflow status and tags."""
        assert self.mirror.flush(30)
        run = self.mirror.client.get_run(self.mirror.trial_run_id(number))
        return run.info.status, run.data.tags


@pytest.fixture
def bench(workspace: Path) -> Iterator[Bench]:
    config = tiny_config(workspace)
    splits = load_splits(config.data, config.study.seed)
    data = DeviceData.from_splits(splits, torch.device("cpu"), config.study.seed)
    ledger = Ledger(config, open_storage("sqlite:///mlruns/optuna.db"))
    mirror = Mirror.open("tiny", ledger.uuid, DatasetInfo("digits", splits.digest))
    weights = WeightStore(ledger.uuid)
    view = LogView(Console(quiet=True))
    yield Bench(
        config, ledger, mirror, weights, TrialRunner(config, data, ledger, mirror, weights, view)
    )
    mirror.close()


def raising(error: BaseException) -> Callable[..., None]:
    def fit(*_: object) -> None:
        raise error

    return fit


def test_a_complete_trial_has_its_best_value_and_its_weights(bench: Bench) -> None:
    claim = bench.ledger.claim()
    assert claim
    verdict = bench.runner.run(claim)
    assert verdict.state == "COMPLETE"
    trial = bench.ledger.study.trials[0]
    assert trial.state is TrialState.COMPLETE
    assert trial.value == verdict.value == max(trial.intermediate_values.values())
    assert list(trial.intermediate_values) == [1, 2]
    status, tags = bench.tags(0)
    assert status == "FINISHED"
    assert tags["regsearch.state"] == "COMPLETE"
    assert tags["regsearch.baseline"] == "unregularized"
    model = bench.runner.build(bench.config)
    model.load_state_dict(bench.weights.load(0))


def test_a_pruned_trial_ends_after_the_epoch_that_was_too_bad(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = bench.ledger.claim()
    assert claim
    monkeypatch.setattr(type(claim), "report", lambda _self, epoch, _value: epoch == 1)
    assert bench.runner.run(claim).state == "PRUNED"
    assert bench.ledger.study.trials[0].state is TrialState.PRUNED
    status, tags = bench.tags(0)
    assert (status, tags["regsearch.state"]) == ("KILLED", "PRUNED")
    assert tags["regsearch.reason"] == "pruned after epoch 1"
    assert not bench.weights.path(0).exists()


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
    first = bench.ledger.claim()
    assert first
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "fit", raising(error))
        verdict = bench.runner.run(first)
    assert verdict.state == "FAIL"
    trial = bench.ledger.study.trials[0]
    assert trial.state is TrialState.FAIL
    assert reason in trial.user_attrs[REASON]
    status, tags = bench.tags(0)
    assert status == "FAILED"
    assert tags["regsearch.state"] == "FAIL"
    assert reason in tags["regsearch.reason"]
    second = bench.ledger.claim()
    assert second
    assert bench.runner.run(second).state == "COMPLETE"


def test_an_unforeseen_failure_keeps_its_traceback() -> None:
    try:
        raise KeyError("some fault")
    except KeyError as error:
        reason = failure_reason(error)
    assert reason.startswith("KeyError: 'some fault'")
    assert "test_an_unforeseen_failure_keeps_its_traceback" in reason


def test_an_interrupted_trial_goes_back_to_the_queue(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = bench.ledger.claim()
    assert claim
    monkeypatch.setattr(Trainer, "fit", raising(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        bench.runner.run(claim)
    assert bench.ledger.study.trials[0].state is TrialState.FAIL
    assert bench.tags(0)[0] == "FAILED"
    retries = [c for c in (bench.ledger.claim(), bench.ledger.claim()) if c and c.lineage == 0]
    assert [retry.baseline for retry in retries] == ["unregularized"]


def test_the_same_trial_trains_the_same_whatever_ran_before(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = bench.ledger.claim()
    assert claim
    bench.runner.run(claim)
    torch.manual_seed(12345)
    torch.rand(7)
    curve: dict[int, float] = {}
    monkeypatch.setattr(
        type(claim), "report", lambda _self, epoch, value: curve.update({epoch: value})
    )
    bench.runner._train(claim)
    assert curve == bench.ledger.study.trials[0].intermediate_values


def test_only_the_best_and_the_baselines_keep_their_weights(bench: Bench) -> None:
    for _ in range(4):
        claim = bench.ledger.claim()
        assert claim
        bench.runner.run(claim)
    best = bench.ledger.best()
    assert best
    kept = sorted(path.name for path in bench.weights.folder.iterdir())
    assert kept == [f"trial-{n:05d}.pt" for n in sorted({0, 1, best.number})]


def test_damaged_weights_are_never_executed(bench: Bench, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "executed",))

    bench.weights.folder.mkdir(parents=True)
    torch.save({"weight": Evil()}, bench.weights.path(5))
    with pytest.raises(Exception, match=r"weights_only|Weights only"):
        bench.weights.load(5)
    assert not (tmp_path / "executed").exists()
