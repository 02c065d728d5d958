"""How a study trains on this machine: measured at its start, then fixed.

More threads are not always faster: in a small net, and on a busy machine, they wait for one another
more than they work. Nor is bfloat16, on processors that have it at half the rate; nor are fused
layers, in a net of few; nor is compiling, for a study that is over before the compiler is. All
of it decides how floating-point sums come out, so it belongs to the study and not to a run of it.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any, Literal

import torch

from pipeline.config import RunConfig
from pipeline.kernels.library import missing
from pipeline.memory import give_back_freed, keep_freed
from pipeline.training.engine import Engine
from pipeline.training.loop import Trainer
from pipeline.training.precision import resolve_precision

CALIBRATIONS = {"cpu": "regsearch.calibration", "cuda": "regsearch.gpu_calibration"}
"""Which attribute of a study has what was measured: it may go on on another device."""
ROUNDS = 3
ROUND_SEC = 0.05
SHARING = 0.85
"""What workers side by side keep of the speed that each has alone: they share memory and caches."""
WORTHWHILE_GAIN, CLEAR_GAIN = 1.1, 1.25
HOPELESS = 2.0
"""An engine whose best of two rounds is so many times slower is not timed again."""

LONG_SEC = 300.0
"""A study that takes longer on a GPU, captured and nothing pruned, has the compiled step tried."""
GPU_UPDATES = 30
MAX_COMPILED = 3
"""So many steps are compiled, at most: each takes most of a minute."""
STRUCTURAL = (
    "model.",
    "training.batch_size",
    "training.optimizer.kind",
    "training.optimizer.nesterov",
    "training.optimizer.decay_norm_and_bias",
    "augmentation.horizontal_flip",
    "augmentation.randaugment_num_ops",
)
"""Settings, or the starts of their paths, whose every value takes a step of its own."""

Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class Calibration:
    """The number of threads of a worker (0: torch's choice), and what `auto` means for
    `training.precision` and `training.engine`."""

    threads: int
    precision: Precision
    engine: Engine = "eager"

    def to_dict(self) -> dict[str, int | str]:
        return asdict(self)


def measured_for(attrs: Mapping[str, Any], device: str) -> Mapping[str, Any] | None:
    """A study's calibration, of its attributes, for `cpu`, `cuda` or `cuda:i`; where it has none
    for such a device, the one that it has."""
    own = CALIBRATIONS[device.partition(":")[0]]
    return next((attrs[key] for key in (own, *CALIBRATIONS.values()) if key in attrs), None)


def as_trained(config: RunConfig, measured: Mapping[str, Any] | None) -> RunConfig:
    """A study's settings with the precision and the engine by which its trials are trained.

    Args:
        measured: the study's `Calibration`, as a mapping; None where none was needed.
    """
    if measured is None:
        return config
    known, asked = Calibration(**measured), config.training
    found = {"precision": known.precision, "engine": known.engine}
    return config.with_overrides(
        {f"training.{k}": value for k, value in found.items() if getattr(asked, k) == "auto"}
    )


def tags_as_measured(attrs: Mapping[str, Any]) -> dict[str, str]:
    """What a study, of its attributes, noted of its training at its start, with what its first
    worker on a GPU has measured since."""
    tags: Mapping[str, str] = attrs.get("regsearch.tags", {})
    began_on_cpu = tags.get("regsearch.device") == "cpu"
    measured = {} if began_on_cpu else attrs.get(CALIBRATIONS["cuda"], {})
    found = {name: measured[name] for name in ("precision", "engine") if name in measured}
    return {**tags, **{f"regsearch.{name}": value for name, value in found.items()}}


def cpu_engines(setting: Literal["auto"] | Engine = "auto") -> tuple[Engine, ...]:
    """Those that are timed on a CPU for what `training.engine` says. `auto` doesn't choose the
    compiler, which has been slower wherever it was tried, and takes too long to be timed."""
    if setting in ("auto", "fused") and not missing():
        return ("eager", "fused") if setting == "auto" else ("fused",)
    return ("eager",)


def calibrate(
    make_trainer: Callable[[Precision, Engine], Trainer],
    num_workers: int | None = None,
    engines: Sequence[Engine] = ("eager",),
) -> Calibration:
    """For a CPU: the faster precision, the engine, and the number of threads with which all workers
    together are fastest.

    The user's own number of threads is kept where `OMP_NUM_THREADS` is set.

    Args:
        make_trainer: a training like those of the study in that precision, by that engine, to be
            thrown away.
        num_workers: how many workers will share the processor; as many as fit, when not given.
        engines: those to choose from. The last is taken unless another is faster by a quarter: two
            studies of the same file should differ by no more than they must.
    """
    dtype = resolve_precision("auto", torch.device("cpu"))
    precision: Precision = "bfloat16" if dtype == torch.bfloat16 else "float32"
    available = torch.get_num_threads()
    most = max(1, available // (num_workers or 1))
    counts = sorted({1, 2, most // 2, most} & set(range(1, most + 1)))
    if os.environ.get("OMP_NUM_THREADS"):
        counts = [available]
    ways = list(product(engines, counts))
    if len(ways) == 1:
        return Calibration(counts[0], precision, engines[0])
    keep_freed()  # as workers do
    trainers = {engine: make_trainer(precision, engine) for engine in engines}
    rates = dict.fromkeys(ways, 0.0)
    for number in range(ROUNDS):  # the best of them: another program's burst decides nothing
        for way in ways:
            engine, threads = way
            rates[way] = max(rates[way], _images_per_sec(trainers[engine], threads))
        best_of = {engine: max(rates[engine, threads] for threads in counts) for engine in engines}
        if number > 0:  # the first one warms up
            ways = [way for way in ways if HOPELESS * best_of[way[0]] > best_of[engines[-1]]]
    torch.set_num_threads(available)
    give_back_freed()
    best = {}
    for engine in engines:
        alone = {threads: rates[engine, threads] for threads in counts}
        shared = alone if num_workers is not None else together(alone, available)
        best[engine] = shared[fastest(shared)], fastest(shared)
    chosen = engines[-1]
    for engine in engines[:-1]:
        if best[engine][0] > CLEAR_GAIN * best[chosen][0]:
            chosen = engine
    return Calibration(best[chosen][1], precision, chosen)


def calibrate_gpu(
    make_trainer: Callable[[Engine], Trainer],
    config: RunConfig,
    num_images: float,
    dtype: torch.dtype,
) -> Calibration:
    """The engine for a study on a GPU: captured, or compiled where that is worth its while.

    Nothing is measured where the space file names the engine.

    Args:
        make_trainer: a training like those of the study by that engine, of which nothing is kept
            here.
        num_images: of the training split, over the number of GPUs.
        dtype: what `training.precision` means there.
    """
    precision: Precision = "bfloat16" if dtype == torch.bfloat16 else "float32"
    if config.training.engine != "auto":
        return Calibration(0, precision, config.training.engine)
    try:
        rate = _gpu_images_per_sec(make_trainer("captured"))
        all_images = config.study.trials * config.training.epochs * num_images
        if all_images / rate < LONG_SEC or num_steps(config) > MAX_COMPILED:
            return Calibration(0, precision, "captured")
        gain = _gpu_images_per_sec(make_trainer("compiled")) / rate
    except torch.OutOfMemoryError:  # of the study's own recipe: its trials may be smaller
        return Calibration(0, precision, "captured")
    return Calibration(0, precision, "compiled" if gain > WORTHWHILE_GAIN else "captured")


def num_steps(config: RunConfig) -> float:
    """How many steps a study builds, at most; infinite where a structural number is searched."""
    number = 1.0
    for path, entry in config.search.items():
        if path.startswith(STRUCTURAL):
            number *= len(entry.edges()) if entry.type == "categorical" else math.inf
    return number


def together(images_per_sec: dict[int, float], cores: int) -> dict[int, float]:
    """The rate of as many workers as fit on the cores, by the threads of each."""
    return {
        threads: rate * (cores // threads) * (SHARING if cores // threads > 1 else 1.0)
        for threads, rate in images_per_sec.items()
    }


def fastest(images_per_sec: dict[int, float]) -> int:
    """The number of threads with the highest rate; more of them must be worth a tenth more."""
    best, *others = sorted(images_per_sec)
    for other in others:
        if images_per_sec[other] > WORTHWHILE_GAIN * images_per_sec[best]:
            best = other
    return best


def _images_per_sec(trainer: Trainer, threads: int) -> float:
    torch.set_num_threads(threads)
    lay_out(trainer)
    started, num_updates = time.perf_counter(), 0
    while (seconds := time.perf_counter() - started) < ROUND_SEC:
        update(trainer, num_updates)
        num_updates += 1
    return num_updates * trainer.batch_size / seconds


def _gpu_images_per_sec(trainer: Trainer) -> float:
    lay_out(trainer)
    for _ in range(2):  # the first round warms up
        torch.cuda.synchronize(trainer.device)
        started = time.perf_counter()
        for index in range(GPU_UPDATES):
            update(trainer, index)
        torch.cuda.synchronize(trainer.device)
        seconds = time.perf_counter() - started
    return GPU_UPDATES * trainer.batch_size / seconds


def lay_out(trainer: Trainer) -> None:
    """An epoch, for updates that go round in it."""
    trainer.model.train()
    trainer.epoch = 1
    trainer.begin_epoch()


def update(trainer: Trainer, index: int) -> None:
    """The update of that index, from 0, of an epoch that begins anew at its end."""
    if index % trainer.steps_per_epoch == 0:
        trainer.step.rewind()
    trainer.run_step()
