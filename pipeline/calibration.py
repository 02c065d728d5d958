"""How a study trains on this processor: threads and precision, measured at its start, then fixed.

More threads are not always faster: in a small net, and on a busy machine, they wait for one another
more than they work. Nor is bfloat16, on processors that have it at half the rate. Both decide how
floating-point sums come out, so they belong to the study and not to a run of it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch

from pipeline.config import RunConfig
from pipeline.training.loop import Trainer
from pipeline.training.precision import resolve_precision

ROUNDS = 3
ROUND_SEC = 0.15
SHARING = 0.85
"""What workers side by side keep of the speed that each has alone: they share memory and caches."""
WORTHWHILE_GAIN = 1.1

Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class Calibration:
    """The number of threads of a worker, and what `training.precision: auto` means."""

    threads: int
    precision: Precision

    def to_dict(self) -> dict[str, int | str]:
        return asdict(self)


def as_trained(config: RunConfig, measured: Mapping[str, Any] | None) -> RunConfig:
    """A study's settings with the precision in which its trials are trained.

    Args:
        measured: the study's `Calibration`, as a mapping; None where none was needed.
    """
    if measured is None or config.training.precision != "auto":
        return config
    precision = Calibration(**measured).precision
    return config.with_overrides({"training.precision": precision})


def calibrate(
    make_trainer: Callable[[Precision], Trainer], num_workers: int | None = None
) -> Calibration:
    """The faster precision, and the number of threads with which all workers together are fastest.

    The user's own number of threads is kept where `OMP_NUM_THREADS` is set.

    Args:
        make_trainer: a training like those of the study in that precision, to be thrown away.
        num_workers: how many workers will share the processor; as many as fit, when not given.
    """
    dtype = resolve_precision("auto", torch.device("cpu"))
    precision: Precision = "bfloat16" if dtype == torch.bfloat16 else "float32"
    available = torch.get_num_threads()
    if available == 1 or os.environ.get("OMP_NUM_THREADS"):
        return Calibration(available, precision)
    most = max(1, available // (num_workers or 1))
    trainer = make_trainer(precision)
    rates = dict.fromkeys(sorted({1, 2, most // 2, most} & set(range(1, most + 1))), 0.0)
    for _ in range(ROUNDS):  # the best of several turns: another program's burst decides nothing
        for threads in rates:
            rates[threads] = max(rates[threads], _images_per_sec(trainer, threads))
    torch.set_num_threads(available)
    if num_workers is not None:
        return Calibration(fastest(rates), precision)
    return Calibration(fastest(together(rates, available)), precision)


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
    indices = torch.arange(trainer.batch_size)
    started, steps = time.perf_counter(), 0
    while (seconds := time.perf_counter() - started) < ROUND_SEC:
        trainer.step.num_updates = 0  # the schedule has no more steps than the training
        trainer.step(indices, epoch=1)
        steps += 1
    return steps * trainer.batch_size / seconds
