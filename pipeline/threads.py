"""How many threads a study trains with on the CPU: measured at its start, then fixed.

More is not always faster: in a small net, and on a busy machine, threads wait for one another more
than they work. The count belongs to the study, since it decides the order of floating-point sums.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import torch

from pipeline.training.loop import Trainer

MEASURE_SEC = 0.3
WORTHWHILE_GAIN = 1.1


def choose_threads(make_trainer: Callable[[], Trainer]) -> int:
    """The number of threads that trains fastest; the user's own where `OMP_NUM_THREADS` is set.

    Args:
        make_trainer: a training like those of the study, to be thrown away.
    """
    available = torch.get_num_threads()
    if available == 1 or os.environ.get("OMP_NUM_THREADS"):
        return available
    trainer = make_trainer()
    counts = sorted({1, 2, available // 2, available} - {0})
    try:
        return fastest({count: _images_per_sec(trainer, count) for count in counts})
    finally:
        torch.set_num_threads(available)


def fastest(images_per_sec: dict[int, float]) -> int:
    """The count with the highest rate, where each further thread must be worth a tenth more."""
    best = min(images_per_sec)
    for count in sorted(images_per_sec):
        if images_per_sec[count] > WORTHWHILE_GAIN * images_per_sec[best]:
            best = count
    return best


def _images_per_sec(trainer: Trainer, num_threads: int) -> float:
    torch.set_num_threads(num_threads)
    indices = torch.arange(trainer.batch_size)

    def step() -> None:
        trainer.step.num_updates = 0  # the schedule has no more steps than the training
        trainer.step(indices, epoch=1)

    step()
    started, steps = time.perf_counter(), 0
    while (seconds := time.perf_counter() - started) < MEASURE_SEC:
        step()
        steps += 1
    return steps * trainer.batch_size / seconds
