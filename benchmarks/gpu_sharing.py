"""Several trainings on one GPU, three ways: processes, streams of one process, one fused net.

Each gives images per second of all of them together, to be held against one alone.
"""

from __future__ import annotations

import multiprocessing
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.cases import Case
from benchmarks.gpu_training import images, train, trainer_by
from benchmarks.timing import as_graph, rounds_of
from pipeline.calibration import lay_out, update
from pipeline.datasets import Splits
from pipeline.training.precision import resolve_precision

UPDATES, ROUNDS = 60, 3
PROCESS_EPOCHS = 4


def processes(count: int, case: Case, folder: Path, device: str, quick: bool) -> float:
    """Processes that share nothing but the GPU: what `--workers N --device cuda:0` starts.

    From the end of their first epochs, scoring and all that the host does included.

    Raises:
        RuntimeError: one of them failed.
    """
    spawn = multiprocessing.get_context("spawn")
    ready, rates = spawn.Barrier(count), spawn.Queue()
    arguments = (case, folder, device, quick, ready, rates)
    members = [spawn.Process(target=_member, args=arguments, daemon=True) for _ in range(count)]
    for member in members:
        member.start()
    for member in members:
        member.join()
    if any(member.exitcode for member in members):
        raise RuntimeError("a process has failed; it has told why on stderr")
    return float(sum(rates.get() for _ in members))


def _member(case: Case, folder: Path, device: str, quick: bool, ready: Any, rates: Any) -> None:
    splits, ends = images(folder, quick), list[float]()

    def report(_: float) -> None:
        if not ends:
            ready.wait(timeout=60)  # the first epoch captures
        ends.append(time.perf_counter())

    train(case, splits, device, "captured", 2 if quick else 1 + PROCESS_EPOCHS, report)
    rates.put((len(ends) - 1) * len(splits.train) / (ends[-1] - ends[0]))


def streams(count: int, case: Case, splits: Splits, device: str) -> float:
    """Captured steps of one process, each on a stream of its own, launched in turns.

    Raises:
        RuntimeError: the device has no streams.
    """
    if not device.startswith("cuda"):
        raise RuntimeError("there are streams on CUDA devices alone")
    trainers = [trainer_by("captured", case, splits, device, 1) for _ in range(count)]
    own = [torch.cuda.Stream(device) for _ in trainers]  # type: ignore[no-untyped-call]
    updates = min(UPDATES, trainers[0].steps_per_epoch)
    for trainer in trainers:
        lay_out(trainer)

    def work() -> None:
        for index in range(updates):
            for trainer, stream in zip(trainers, own, strict=True):
                with torch.cuda.stream(stream):
                    update(trainer, index)

    seconds = min(rounds_of(work, torch.device(device), ROUNDS))
    return count * updates * case.batch_size / seconds


def fused(count: int, case: Case, device: str) -> float:
    """One net of `count` times the channels, whose groups are the trainings, captured where there
    is a GPU: forward and backward pass alone, and so at best what a whole step could gain."""
    where = torch.device(device)
    net = _Pack(count, case.width).to(where).to(memory_format=torch.channels_last)
    parameters = list(net.parameters())
    dtype = resolve_precision("auto", where)
    batch = torch.rand(case.batch_size, 3 * count, 32, 32, device=where)
    batch = batch.contiguous(memory_format=torch.channels_last)
    labels = torch.randint(10, (case.batch_size * count,), device=where)
    enabled = dtype != torch.float32

    def once() -> None:
        with torch.autocast(where.type, dtype, enabled=enabled, cache_enabled=False):
            logits = net(batch)
        torch.autograd.grad(F.cross_entropy(logits.float(), labels), parameters)

    times = UPDATES if where.type == "cuda" else 1
    return count * case.batch_size / min(rounds_of(as_graph(once, where), where, ROUNDS, times))


class _Pack(nn.Module):
    """The default `vgg` so many times, by grouped convolutions: (N, 3 * count, 32, 32) to
    (N * count, 10)."""

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.count = count

        def convolution(inputs: int, outputs: int) -> list[nn.Module]:
            grouped = nn.Conv2d(
                inputs * count, outputs * count, 3, padding=1, bias=False, groups=count
            )
            return [grouped, nn.BatchNorm2d(outputs * count)]

        layers: list[nn.Module] = []
        for inputs, outputs in ((3, width), (width, 2 * width), (2 * width, 4 * width)):
            layers += [*convolution(inputs, outputs), nn.ReLU(inplace=True)]
            layers += [*convolution(outputs, outputs), nn.MaxPool2d(2), nn.ReLU(inplace=True)]
        self.blocks = nn.Sequential(*layers)
        self.hidden = nn.Parameter(torch.randn(count, 4 * width * 16, 512) / 64)
        self.output = nn.Parameter(torch.randn(count, 512, 10) / 23)

    def forward(self, x: Tensor) -> Tensor:
        features = self.blocks(x)
        apart = features.reshape(len(x), self.count, -1).transpose(0, 1)
        hidden = torch.bmm(apart, self.hidden.to(apart.dtype)).relu()
        logits = torch.bmm(hidden, self.output.to(hidden.dtype))
        return logits.transpose(0, 1).reshape(-1, 10)
