"""One step for every trial: graphs and captures are counted, and sharing a step changes nothing."""

from __future__ import annotations

import random
import warnings
import weakref
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import replace
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounter
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.kernels.library import KernelError
from pipeline.kernels.norm import FusedNorm
from pipeline.models import build_model
from pipeline.models.resnet import ResnetSettings
from pipeline.seeding import TrialSeeds
from pipeline.training.engine import MAX_STEPS, Engine, Steps, resolve_engine
from pipeline.training.loop import Trainer
from pipeline.training.metrics import classification_scores
from pipeline.training.recipe import Recipe
from pipeline.training.step import TrainStep
from pipeline.training.structure import Structure
from tests.resuming import learnable_data
from tests.trainings import NEEDS_COMPILER, STANDS_STILL, Curves, fit, recipe, untimed

NET = ResnetSettings(width=16, depth=1)
FULL = {
    "regularization": {
        "dropout": 0.5,
        "spatial_dropout": 0.1,
        "stochastic_depth": 0.2,
        "l1": 1e-5,
        "l2": 1e-4,
        "label_smoothing": 0.1,
        "mixup_alpha": 0.4,
        "cutmix_alpha": 1.0,
        "ema_decay": 0.9,
    },
    "augmentation": {
        "strength": 1.0,
        "scale_fraction": 0.2,
        "hue": 0.1,
        "cutout_fraction": 0.3,
        "erasing_probability": 0.5,
        "randaugment_num_ops": 2,
    },
}
OFF = {"regularization": {}, "augmentation": {}}
EVERYTHING = Structure.of(recipe(sections=FULL, gradient_clip_norm=1.0))


def drawn(number: int, kind: str = "adamw") -> Recipe:
    """A trial's recipe in which every number that can be searched is its own."""
    chance = random.Random(number)
    optimizer: dict[str, Any] = {
        "kind": kind,
        "learning_rate": chance.uniform(1e-3, 1e-2),
        "weight_decay": chance.uniform(0, 0.1),
    }
    optimizer |= {"beta1": chance.uniform(0.8, 0.9)} if kind == "adamw" else {"momentum": 0.8}
    sections = {
        name: {
            key: value if isinstance(value, int) else value * chance.uniform(0.1, 1)
            for key, value in section.items()
        }
        for name, section in FULL.items()
    }
    return recipe(
        2,
        optimizer=optimizer,
        sections=sections | {"lr_schedule": {"kind": "cosine"}},
        gradient_clip_norm=chance.uniform(0.1, 1.0),
    )


def training(how: Recipe, steps: Steps, trial: int = 0, wide: bool = True) -> Trainer:
    torch.manual_seed(trial)
    model = build_model(NET, how.regularization, (3, 8, 8), 3)
    structure = Structure.of(how).widened([EVERYTHING] if wide else [])
    shared = steps.get(NET, model, how, structure)
    return Trainer(model, steps.data, how, "validation/loss", TrialSeeds.of(0, trial), shared)


def curve(how: Recipe, steps: Steps, trial: int = 0, wide: bool = True) -> Curves:
    return [
        {k: v for k, v in epoch.items() if k != "images_per_sec"}
        for epoch in untimed(fit(training(how, steps, trial, wide=wide))[1])
    ]


# How many


def test_twenty_trials_of_different_settings_share_one_step() -> None:
    steps = Steps(learnable_data())
    curves = [curve(drawn(trial), steps, trial) for trial in range(20)]
    assert steps.num_built == 1
    assert len({epochs[-1]["validation/loss"] for epochs in curves}) == 20


def test_twenty_trials_are_two_graphs_for_torch_compile() -> None:
    """One before the backward pass and one after it; 0 is a strength like any other."""
    graphs, steps = CompileCounter(), Steps(learnable_data())
    training(drawn(0), steps).step.compile(backend=graphs)
    for trial in range(19):
        fit(training(drawn(trial), steps, trial))
    fit(training(recipe(sections=OFF), steps))
    assert graphs.frame_count == 2


def test_a_structural_choice_has_a_step_of_its_own_which_is_kept() -> None:
    steps = Steps(learnable_data())
    for trial in range(6):
        fit(training(drawn(trial, "adamw" if trial % 2 else "sgd"), steps, trial))
    assert steps.num_built == 2
    fit(training(drawn(0), steps, wide=False))
    fit(training(recipe(sections=OFF), steps, wide=False))
    assert steps.num_built == 3, "a search that has less has another step"


def test_steps_that_were_not_used_for_long_are_let_go() -> None:
    steps = Steps(learnable_data())
    for batch_size in range(2, 4 + MAX_STEPS):
        fit(training(recipe(batch_size=batch_size), steps))
    assert len(steps._steps) == MAX_STEPS
    fit(training(recipe(batch_size=2), steps))
    assert steps.num_built == MAX_STEPS + 3


# That sharing changes nothing


@pytest.mark.parametrize(
    ("kind", "engine"),
    [
        ("adamw", "eager"),
        ("sgd", "eager"),
        pytest.param("adamw", "fused", marks=NEEDS_COMPILER),
    ],
)
def test_a_trial_comes_out_the_same_whichever_trials_had_the_step_before(
    kind: str, engine: Engine
) -> None:
    shared = Steps(learnable_data(), engine)
    alone = [curve(drawn(t, kind), Steps(learnable_data(), engine), t) for t in range(3)]
    assert [curve(drawn(t, kind), shared, t) for t in range(3)] == alone
    assert curve(drawn(1, kind), shared, 1) == alone[1]


def test_parts_at_strength_zero_change_nothing_to_the_last_bit() -> None:
    plain = recipe(3, sections=OFF)
    wide, narrow = (curve(plain, Steps(learnable_data()), wide=wide) for wide in (True, False))
    assert wide == narrow


# What a capture asks for


class NoHostWaits(TorchDispatchMode):
    """Fails on what reads a device's tensor on the host, which a capture can't."""

    HOST_OPS = ("_local_scalar_dense", "nonzero", "masked_select", "lift_fresh", "equal", "is_same")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        assert func.overloadpacket.__name__ not in self.HOST_OPS, func
        return func(*args, **kwargs or {})


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_a_step_waits_for_nothing_on_the_host(kind: str) -> None:
    step = training(drawn(0, kind), Steps(learnable_data())).step
    step.rule.in_kernel = False  # on the CPU alone
    with NoHostWaits():
        step()


def test_scores_wait_for_nothing_on_the_host() -> None:
    logits, labels = torch.eye(4), torch.arange(4)
    with NoHostWaits():
        classification_scores(logits, labels)


class Tape(TorchDispatchMode):
    """Stands in for a CUDA graph, which can't be had without a GPU: it notes every operation of a
    step, and replays them on the same tensors, as a graph repeats its kernels at their addresses.
    Python that a graph would have baked in is baked in here, too."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Callable[..., Any], Any, Any, Any]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **kwargs or {})
        self.calls.append((func, args, kwargs or {}, result))
        return result

    def replay(self) -> None:
        with torch.no_grad():
            for func, args, kwargs, kept in self.calls:
                again = func(*args, **kwargs)
                for old, new in zip(_tensors(kept), _tensors(again), strict=True):
                    if old.data_ptr() != new.data_ptr():
                        old.copy_(new)


def _tensors(result: Any) -> Iterator[Tensor]:
    if isinstance(result, Tensor):
        yield result
    elif isinstance(result, list | tuple | dict):
        for entry in result.values() if isinstance(result, dict) else result:
            yield from _tensors(entry)


def record(steps: Steps) -> None:
    """Have the one step of `steps` replay from now on what it does once."""
    [(key, (step, _))] = steps._steps.items()
    tape = Tape()
    with tape:
        step()
    steps._steps[key] = (step, tape.replay)


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_a_step_that_was_recorded_once_serves_every_trial(kind: str) -> None:
    eager, replayed = Steps(learnable_data()), Steps(learnable_data())
    for steps in (eager, replayed):
        training(drawn(100, kind), steps).step.rule.in_kernel = False
    record(replayed)
    optimizer = drawn(100, kind).training.optimizer.model_dump()
    nothing = recipe(3, sections=OFF, optimizer=optimizer)
    for trial, how in enumerate([*(drawn(trial, kind) for trial in range(4)), nothing]):
        assert curve(how, replayed, trial) == curve(how, eager, trial)
    assert replayed.num_built == eager.num_built == 1


def test_tensors_of_a_step_stay_where_they_are() -> None:
    steps = Steps(learnable_data())

    def addresses() -> list[int]:
        step = next(iter(steps._steps.values()))[0]
        parts = (step, step.flat, step.rule, step.average, step.mixing, step.augmentation)
        owned = [value for part in parts for value in vars(part).values()]
        tensors = [*step.model.state_dict().values(), *_tensors(owned)]
        return [tensor.data_ptr() for tensor in tensors]

    fit(training(drawn(0), steps))
    before = addresses()
    assert len(before) > 40
    again = training(drawn(1), steps, 1)
    again.load_state_dict(deepcopy(again.state_dict()))
    fit(again)
    assert addresses() == before


# What can't be had


def test_a_capture_that_is_impossible_is_told_once_and_the_step_runs_op_by_op() -> None:
    notes: list[str] = []
    steps = Steps(learnable_data(), "captured", notes.append)
    expected = [curve(drawn(t), Steps(learnable_data()), t) for t in range(2)]
    assert [curve(drawn(t), steps, t) for t in range(2)] == expected
    fit(training(drawn(0, "sgd"), steps))
    [note] = notes
    assert note == (
        "the training step can't be captured here, and runs op by op: "
        "there are CUDA graphs on CUDA devices alone"
    )


def test_kernels_that_are_impossible_are_told_once_and_the_step_runs_op_by_op(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    notes: list[str] = []
    expected = [curve(drawn(t), Steps(learnable_data()), t) for t in range(2)]

    def fails() -> None:
        raise KernelError("no compiler")

    monkeypatch.setattr("pipeline.kernels.norm.library", fails)
    steps = Steps(learnable_data(), "fused", notes.append)
    assert [curve(drawn(t), steps, t) for t in range(2)] == expected
    assert notes == ["the training step can't be fused here, and runs op by op: no compiler"]


def test_on_a_gpu_a_step_that_cannot_be_fused_is_captured() -> None:
    """A GPU is there in name alone: it is asked for, and nothing runs on it."""
    steps = Steps(learnable_data(), "fused")
    steps.data = replace(steps.data, mean=Mock(device=torch.device("cuda")))
    assert steps._next_best() == "captured"
    steps.engine = "captured"
    assert steps._next_best() == "eager"


@NEEDS_COMPILER
def test_a_fused_step_trains_alike() -> None:
    notes: list[str] = []
    fused = Steps(learnable_data(), "fused", notes.append)
    how = recipe(3, sections={"regularization": {"l2": 1e-3, "ema_decay": 0.5}})
    ours, expected = (curve(how, steps) for steps in (fused, Steps(learnable_data())))
    assert notes == []
    assert ours != expected
    for one, other in zip(ours, expected, strict=True):
        assert one["train/loss"] == pytest.approx(other["train/loss"], rel=1e-3)
    step = next(iter(fused._steps.values()))[0]
    assert sum(isinstance(module, FusedNorm) for module in step.net.modules()) == 9
    assert [*step.model.state_dict()] == [
        *build_model(NET, how.regularization, (3, 8, 8), 3).state_dict()
    ]


def test_what_auto_means_before_anything_was_measured() -> None:
    devices = [torch.device("cpu"), torch.device("cuda")]
    assert [resolve_engine("auto", device) for device in devices] == ["eager", "captured"]
    assert resolve_engine("compiled", devices[0]) == "compiled"


def test_what_the_compiler_says_of_its_own_choices_spoils_no_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def compile_with_words(step: TrainStep) -> None:
        def forward() -> tuple[Tensor, Tensor]:
            words = "\nOnline softmax is disabled on the fly"  # torch 2.11's, on a GPU
            warnings.warn_explicit(words, UserWarning, "lowering.py", 1, "torch._inductor.lowering")
            return TrainStep.forward(step)

        step._forward = forward

    monkeypatch.setattr(TrainStep, "compile", compile_with_words)
    notes: list[str] = []
    steps = Steps(learnable_data(), "compiled", notes.append)
    training(drawn(0), steps)
    assert (notes, steps.engine) == ([], "compiled")


class TooLarge(Steps):
    """Has room for one step alone. Stands in for a GPU's memory."""

    def _build(self, *args: Any) -> Any:
        if self._steps:
            raise torch.OutOfMemoryError
        return super()._build(*args)


def test_a_step_that_does_not_fit_beside_others_takes_their_place_and_keeps_the_engine() -> None:
    steps = TooLarge(learnable_data(), "eager")
    for batch_size in (4, 8):
        fit(training(recipe(batch_size=batch_size), steps))
    assert (len(steps._steps), steps.num_built, steps.engine) == (1, 2, "eager")


def test_a_step_that_was_let_go_is_gone() -> None:
    steps = Steps(learnable_data())
    fit(training(drawn(0), steps))
    [(step, run)] = steps._steps.values()
    watched = weakref.ref(step)
    del step, run
    steps._steps.clear()  # no collector is needed
    assert watched() is None


@pytest.mark.slow
def test_a_compiled_step_trains_alike() -> None:
    notes: list[str] = []
    compiled = Steps(learnable_data(), "compiled", notes.append)
    how = recipe(3, sections={"regularization": {"l2": 1e-3, "ema_decay": 0.5}})
    ours, expected = (curve(how, steps) for steps in (compiled, Steps(learnable_data())))
    assert notes == []
    for one, other in zip(ours, expected, strict=True):
        assert one["train/loss"] == pytest.approx(other["train/loss"], rel=1e-3)


# On a GPU

GPU = pytest.mark.gpu


@GPU
@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_a_captured_step_serves_every_trial_and_learns_as_the_eager_one(kind: str) -> None:
    data = learnable_data("cuda")
    notes: list[str] = []
    captured, eager = Steps(data, "captured", notes.append), Steps(data, "eager")
    for trial in range(20):
        one, other = (curve(drawn(trial, kind), steps, trial) for steps in (captured, eager))
        for mine, theirs in zip(one, other, strict=True):
            assert mine["train/loss"] == pytest.approx(theirs["train/loss"], rel=2e-2)
    assert notes == []
    assert captured.num_built == 1


@GPU
def test_chance_advances_between_replays_and_reproduces_after_reseeding() -> None:
    how = recipe(2, optimizer=STANDS_STILL, sections={"regularization": {"dropout": 0.5}})
    trainer = training(how, Steps(learnable_data("cuda"), "captured"), wide=False)
    trainer.epoch = 1
    trainer.model.train()

    def losses(seed: int) -> list[float]:
        """Of one batch, twice, with weights that stand still: dropout alone tells them apart."""
        torch.manual_seed(seed)
        found = []
        for _ in range(2):
            trainer.step.rewind()
            trainer.run_step()
            found.append(trainer.step.sums[0].item())
        return found

    trainer.begin_epoch()
    first = losses(0)
    assert first[0] != first[1]
    assert losses(0) == pytest.approx(first, rel=1e-6)
    assert losses(1)[0] != pytest.approx(first[0], rel=1e-4)


class Reader(torch.nn.Module):
    """Waits for the device, which no capture survives."""

    def forward(self, x: Tensor) -> Tensor:
        return x * float(x.sum().isfinite().item())


@GPU
def test_a_step_that_cannot_be_captured_trains_op_by_op_with_its_chance_intact() -> None:
    notes: list[str] = []
    how = recipe(2, sections={"regularization": {"dropout": 0.5}})
    steps = Steps(learnable_data("cuda"), "captured", notes.append)
    model = torch.nn.Sequential(Reader(), build_model(NET, how.regularization, (3, 8, 8), 3))
    shared = steps.get("reader", model, how, Structure.of(how))
    seeds = TrialSeeds.of(0, 0)
    result, curves = fit(Trainer(model, steps.data, how, "validation/loss", seeds, shared))
    assert result.num_epochs == len(curves) == 2
    [note] = notes
    assert "can't be captured here, and runs op by op" in note


@GPU
def test_a_compiled_and_captured_step_learns_as_the_eager_one() -> None:
    data = learnable_data("cuda")
    notes: list[str] = []
    how = recipe(3, sections={"regularization": {"l2": 1e-3, "ema_decay": 0.5}})
    ours, expected = (
        curve(how, steps, wide=False)
        for steps in (Steps(data, "compiled", notes.append), Steps(data, "eager"))
    )
    assert notes == []
    for one, other in zip(ours, expected, strict=True):
        assert one["train/loss"] == pytest.approx(other["train/loss"], rel=2e-2)
