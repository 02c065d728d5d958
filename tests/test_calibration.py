"""Threads and precision: measured once, and worth what they cost."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.calibration import (
    as_trained,
    calibrate,
    calibrate_gpu,
    cpu_engines,
    fastest,
    num_steps,
    tags_as_measured,
    together,
)
from pipeline.config import RunConfig
from pipeline.datasets import load_splits
from pipeline.trainers import Trainers, calibrated_trainers
from pipeline.training.data import DeviceData
from pipeline.training.engine import Steps
from pipeline.training.loop import Trainer
from pipeline.training.step import TrainStep
from pipeline.workers.plan import Plan
from tests.spaces import tiny_config
from tests.test_ledger import open_ledger


def test_a_further_thread_must_be_worth_a_tenth_more() -> None:
    assert fastest({1: 100.0, 2: 109.0, 4: 105.0}) == 1
    assert fastest({1: 100.0, 2: 150.0, 4: 160.0}) == 2
    assert fastest({1: 100.0, 2: 150.0, 4: 170.0}) == 4
    assert fastest({1: 1000.0, 4: 30.0}) == 1


def test_workers_side_by_side_keep_85_per_cent_of_their_speed() -> None:
    # Four of one thread: 4 x 100 x 0.85. Two of two: 2 x 180 x 0.85. One of four has it all.
    assert together({1: 100.0, 2: 180.0, 4: 300.0}, cores=4) == {1: 340.0, 2: 306.0, 4: 300.0}


def nothing(*_: object) -> Any:
    """In place of a training, where its speed is given."""


def test_a_given_number_of_workers_shares_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """With two workers on four cores, four threads each are not tried."""
    tried = set()

    def rate(_: object, threads: int) -> float:
        tried.add(threads)
        return 100.0 * threads

    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    monkeypatch.setattr("pipeline.calibration._images_per_sec", rate)
    assert calibrate(nothing, num_workers=2).threads == 2
    assert tried == {1, 2}


def test_a_stall_in_one_round_decides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rates = {1: iter([100.0, 100.0, 100.0]), 2: iter([3.0, 290.0, 3.0]), 4: iter([5.0, 5.0, 5.0])}
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    monkeypatch.setattr(
        "pipeline.calibration._images_per_sec", lambda _, threads: next(rates[threads])
    )
    assert calibrate(nothing).threads == 2


def test_the_last_engine_is_taken_unless_another_is_faster_by_a_quarter_at_its_best(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def chosen(**rates: float) -> tuple[str, int]:
        """Of images per second by engine and threads."""
        monkeypatch.setattr(
            "pipeline.calibration._images_per_sec",
            lambda engine, threads: rates[f"{engine}_{threads}"],
        )
        found = calibrate(lambda _, engine: engine, 1, ("eager", "fused"))  # type: ignore[arg-type, return-value]
        return found.engine, found.threads

    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    assert chosen(eager_1=100, eager_2=150, fused_1=140, fused_2=160) == ("fused", 2)
    assert chosen(eager_1=100, eager_2=150, fused_1=155, fused_2=160) == ("fused", 1)
    assert chosen(eager_1=100, eager_2=150, fused_1=121, fused_2=122) == ("fused", 1)
    assert chosen(eager_1=100, eager_2=150, fused_1=118, fused_2=119) == ("eager", 2)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert chosen(eager_2=150, fused_2=121) == ("fused", 2)


def test_an_engine_that_is_far_behind_is_timed_in_two_rounds_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It takes the longest. The last engine is timed to the end, whatever came of it at first."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    for of_eager, of_fused, num_timed, chosen in (
        ([49.0] * 2, [100.0] * 3, 2, "fused"),
        ([51.0] * 3, [100.0] * 3, 3, "fused"),
        ([1.0, 130.0, 1.0], [100.0] * 3, 3, "eager"),  # the first round warms up
        ([100.0] * 3, [1.0, 1.0, 90.0], 3, "fused"),
        ([100.0] * 3, [1.0] * 3, 3, "eager"),
    ):
        rates, timed = {"eager": iter(of_eager), "fused": iter(of_fused)}, list[str]()

        def rate(
            engine: str, _: int, rates: dict[str, Iterator[float]] = rates, timed: list[str] = timed
        ) -> float:
            timed.append(engine)
            return next(rates[engine])

        monkeypatch.setattr("pipeline.calibration._images_per_sec", rate)
        found = calibrate(lambda _, engine: engine, 1, ("eager", "fused"))  # type: ignore[arg-type, return-value]
        assert (timed.count("eager"), timed.count("fused")) == (num_timed, 3)
        assert found.engine == chosen


def test_what_there_is_to_choose_from_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.calibration.missing", lambda: "")
    settings: tuple[Any, ...] = ("auto", "fused", "eager", "compiled")
    several = [("eager", "fused"), ("fused",), ("eager",), ("eager",)]
    assert [cpu_engines(setting) for setting in settings] == several
    monkeypatch.setattr("pipeline.calibration.missing", lambda: "no compiler")
    assert [cpu_engines(setting) for setting in settings] == [("eager",)] * 4


def test_the_users_own_number_of_threads_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert calibrate(lambda *_: pytest.fail("measured")).threads == 3


def test_a_study_keeps_what_it_began_with(tmp_path: Path) -> None:
    first = open_ledger(tmp_path).fixed("calibration", lambda: {"threads": 2})
    assert first == {"threads": 2}
    assert open_ledger(tmp_path).fixed("calibration", lambda: {"threads": 4}) == first


# The engine on a GPU. The trainer is a stand-in here, since its speed is what is asked about.


@dataclass
class Timed:
    engine: str


def engine_for(
    monkeypatch: pytest.MonkeyPatch, config: RunConfig, rates: dict[str, float]
) -> tuple[str, list[str]]:
    """The engine chosen where trainings have these images per second, and what was tried."""
    tried: list[str] = []

    def rate(trainer: Timed) -> float:
        tried.append(trainer.engine)
        return rates[trainer.engine]

    monkeypatch.setattr("pipeline.calibration._gpu_images_per_sec", rate)
    found = calibrate_gpu(Timed, config, 50_000, torch.bfloat16)  # type: ignore[arg-type]
    assert found.precision == "bfloat16"
    return found.engine, tried


def test_a_long_study_on_a_gpu_is_compiled_where_that_was_measured_to_pay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def chosen(trials: int, **rates: float) -> tuple[str, list[str]]:
        return engine_for(monkeypatch, config.with_overrides({"study.trials": trials}), rates)

    config = tiny_config(tmp_path, "training.epochs=20")
    both = ["captured", "compiled"]
    # 100 x 20 x 50,000 images at 100,000/s take 1,000 s; a fifth of that is not worth a minute
    assert chosen(100, captured=1e5, compiled=2e5) == ("compiled", both)
    assert chosen(100, captured=1e5, compiled=1.05e5) == ("captured", both)
    assert chosen(20, captured=1e5, compiled=2e5) == ("captured", ["captured"])


def test_an_engine_that_was_named_is_not_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for engine in ("eager", "captured", "compiled"):
        config = tiny_config(tmp_path, f"training.engine={engine}")
        assert engine_for(monkeypatch, config, {}) == (engine, [])


def test_a_search_of_structural_numbers_is_not_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = {"type": "int", "low": 16, "high": 64}
    data = tiny_config(tmp_path, "training.epochs=20", "study.trials=100").model_dump()
    data["search"] = {"training.batch_size": entry}
    many = RunConfig.model_validate(data)
    assert engine_for(monkeypatch, many, {"captured": 1e3}) == ("captured", ["captured"])
    assert num_steps(many) == float("inf")
    data["search"] = {
        "model.norm": {"type": "categorical", "choices": ["batch", "group"]},
        "training.optimizer.weight_decay": {"type": "float", "low": 0.0, "high": 1.0},
    }
    assert num_steps(RunConfig.model_validate(data)) == 2


# The worker that measures. Its engines and their speed are stand-ins: they can't be had on a CPU.


class Worker:
    """A GPU's worker of one study, that trains where the tests run."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, **rates: float) -> None:
        monkeypatch.chdir(folder)
        self.tried: list[str] = []
        self.notes: list[str] = []

        def rate(_: Trainer) -> float:
            self.tried.append(engines[-1])
            return rates[engines[-1]]

        def run_by(step: TrainStep, engine: str) -> TrainStep:
            self.alive.append(sum(other() is not None for other in built))
            built.append(weakref.ref(step))
            engines.append(engine)
            return step

        engines: list[str] = []
        built: list[weakref.ref[TrainStep]] = []
        self.alive: list[int] = []
        monkeypatch.setattr("pipeline.training.engine.run_by", run_by)
        monkeypatch.setattr("pipeline.calibration._gpu_images_per_sec", rate)
        # At an image a second every study is long.
        self.config = tiny_config(folder, "study.trials=100", "training.engine=auto")
        splits = load_splits(self.config.data, self.config.study.seed)
        data = DeviceData.from_splits(splits, torch.device("cpu"), self.config.study.seed)
        self.ledger = open_ledger(folder, "study.trials=100", "training.engine=auto")

        def trainers(config: RunConfig) -> Trainers:
            return calibrated_trainers(config, data, self.ledger, 1, self.notes.append)

        self.make = trainers
        self.trainers = trainers(self.config)


def test_the_worker_that_measures_trains_with_the_step_that_it_has_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Worker(tmp_path, monkeypatch, captured=1.0, compiled=1.7)
    assert first.tried == ["captured", "compiled"]
    assert first.notes == ["the training step is compiled, and timed: that may take a minute"]
    assert first.trainers.config.training.engine == "compiled"
    assert first.ledger.recorded("gpu_calibration")["engine"] == "compiled"
    for dropout in (0.0, 0.3):
        config = first.trainers.config.with_overrides({"regularization.dropout": dropout})
        first.trainers.make(config, seed=1)
    steps = first.trainers.steps
    assert (steps.engine, steps.num_built) == ("compiled", 1)


def test_a_later_worker_measures_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Worker(tmp_path, monkeypatch, captured=1.0, compiled=1.7)
    later = Worker(tmp_path, monkeypatch)
    assert (later.tried, later.notes) == ([], [])
    assert later.trainers.steps.engine == "compiled"
    assert later.trainers.steps.num_built == 0


def test_a_step_that_lost_is_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    let_go: list[str] = []
    monkeypatch.setattr(Steps, "let_go", lambda steps: let_go.append(steps.engine))
    worker = Worker(tmp_path, monkeypatch, captured=1.0, compiled=1.05)
    assert worker.tried == ["captured", "compiled"]
    assert (worker.trainers.steps.engine, worker.trainers.steps.num_built) == ("captured", 0)
    assert let_go == ["compiled"]


def test_one_step_at_a_time_is_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU may have room for no more."""
    worker = Worker(tmp_path, monkeypatch, captured=1.0, compiled=1.7)
    assert worker.alive == [0, 0]


def test_workers_that_start_together_measure_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = Worker(tmp_path, monkeypatch, captured=1.0, compiled=1.7)
    worker.tried.clear()
    worker.ledger = open_ledger(tmp_path, "study.name=another", "study.trials=100")
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(worker.make, [worker.config] * 4))
    assert worker.tried == ["captured", "compiled"]
    assert {trainers.steps.engine for trainers in found} == {"compiled"}


def test_a_follow_up_keeps_its_settings_and_takes_the_studys_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = Worker(tmp_path, monkeypatch, captured=1.0, compiled=1.7)
    trainers = worker.make(worker.config.with_overrides({"training.epochs": 7}))
    assert trainers.config.training.epochs == 7
    assert trainers.config.training.engine == "compiled"


def test_workers_that_share_a_gpu_are_no_more_gpus(tmp_path: Path) -> None:
    plan = Plan(tiny_config(tmp_path), ("cuda:0", "cuda:1", "cuda:0", "cuda:1"), threads=0)
    assert plan.num_devices == 2


def test_a_studys_tags_say_what_was_measured_on_the_gpu_that_it_began_on() -> None:
    measured = {"regsearch.gpu_calibration": {"threads": 0, "precision": "p", "engine": "e"}}
    began = {"regsearch.device": "NVIDIA H200", "regsearch.engine": "auto"}
    assert tags_as_measured({"regsearch.tags": began}) == began
    assert tags_as_measured({"regsearch.tags": began, **measured}) == {
        "regsearch.device": "NVIDIA H200", "regsearch.engine": "e", "regsearch.precision": "p"
    }  # fmt: skip
    on_cpu = {"regsearch.device": "cpu", "regsearch.engine": "eager"}
    assert tags_as_measured({"regsearch.tags": on_cpu, **measured}) == on_cpu


def test_what_was_measured_fills_in_what_was_left_to_it(tmp_path: Path) -> None:
    measured = {"threads": 0, "precision": "bfloat16", "engine": "compiled"}
    how = as_trained(tiny_config(tmp_path, "training.precision=auto"), measured).training
    assert (how.precision, how.engine) == ("bfloat16", "compiled")
    own = ("training.precision=float32", "training.engine=captured")
    how = as_trained(tiny_config(tmp_path, *own), measured).training
    assert (how.precision, how.engine) == ("float32", "captured")
    before = {"threads": 2, "precision": "float32"}  # of a study that is older than engines
    how = as_trained(tiny_config(tmp_path, "training.precision=auto"), before).training
    assert (how.precision, how.engine) == ("float32", "eager")
