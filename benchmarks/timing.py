"""Seconds of work on devices that work while the host goes on."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from pipeline.training.engine import captured


def rounds_of(
    work: Callable[[], object], device: torch.device, rounds: int, times: int = 1
) -> list[float]:
    """Seconds of the work in each of so many rounds, after one that does not count.

    Args:
        times: how often it is done in a round, one after the other.
    """
    seconds = []
    for _ in range(1 + rounds):
        wait(device)
        started = time.perf_counter()
        for _ in range(times):
            work()
        wait(device)
        seconds.append((time.perf_counter() - started) / times)
    return seconds[1:]


def wait(device: torch.device) -> None:
    """Until the device has done all that it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def as_graph(work: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """The work as one CUDA graph, where there are any: as a training's updates are run."""
    return captured(work, device) if device.type == "cuda" else work
