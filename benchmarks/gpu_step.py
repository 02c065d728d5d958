"""What an update takes on a GPU: its parts, its kernels, and what might be done otherwise.

The recipe is that of `search_spaces/cifar.yaml`, with all that any of its trials may need.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from statistics import median

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.timing import as_graph, rounds_of, wait
from pipeline.calibration import lay_out, update
from pipeline.models.layers import Convolution
from pipeline.training.loop import Trainer
from pipeline.training.step import TrainStep

ROUNDS, UPDATES = 5, 40
PROFILED, MAX_KERNELS, MAX_NAME = 8, 15, 110
FILLING = ("void ", "at::native::", "(anonymous namespace)::", "at::")
"""Parts of kernels' names that say nothing, and push out of sight what does."""


def milliseconds(trainer: Trainer) -> float:
    """Of an update as it is run, the median of several rounds."""
    lay_out(trainer)
    index = 0

    def next_update() -> None:
        nonlocal index
        update(trainer, index)
        index += 1

    return _milliseconds(next_update, trainer.device)


def parts(trainer: Trainer) -> Iterator[tuple[str, float]]:
    """The milliseconds of a step's parts, each captured by itself where there is a GPU."""
    lay_out(trainer)
    step = trainer.step
    images, targets = step.batch()
    gradients = tuple(torch.randn_like(p) / 1_000 for p in step.flat.parameters)
    vector, rate = torch.randn_like(step.flat.values) / 1_000, torch.zeros((), device=step.device)

    def batch() -> None:
        step.rewind()
        step.batch()

    def end() -> None:
        step.rewind()
        step.update(gradients, rate, rate)

    works: dict[str, Callable[[], None]] = {
        "batch and augmentation": batch,
        "net, forward and backward": partial(_pass, step, images, targets.labels),
        "all after the backward pass": end,
        "of that, the optimizer's rule": lambda: step.rule(vector, rate),
    }
    for name, work in works.items():
        yield name, _milliseconds(as_graph(work, step.device), step.device)


def candidates(trainer: Trainer) -> Iterator[tuple[str, float]]:
    """Milliseconds of what might be done otherwise: the first convolution plain, and padded to 8
    channels as it is on a GPU, the padding included; and AdamW by torch's fused kernel, whose betas
    a capture would repeat for ever."""
    lay_out(trainer)
    step = trainer.step
    images, _ = step.batch()
    first = next(m for m in step.model.modules() if isinstance(m, Convolution))
    ways: dict[str, Callable[[Tensor], Tensor]] = {
        "plain": partial(nn.Conv2d.forward, first),
        "padded": first.padded,
    }
    for name, forward in ways.items():
        work = partial(_first_convolution, step, first, images, forward)
        what = f"first convolution, {name}, forward and backward"
        yield what, _milliseconds(as_graph(work, step.device), step.device)
    values, gradient, mean, square = torch.rand(4, len(step.flat.values), device=step.device)
    count, rate = torch.zeros(2, device=step.device).unbind()

    def fused() -> None:
        torch._fused_adamw_(
            [values], [gradient], [mean], [square], [], [count],
            lr=rate, beta1=0.9, beta2=0.999, weight_decay=0.0, eps=1e-8,
            amsgrad=False, maximize=False,
        )  # fmt: skip

    yield "AdamW by torch's kernel", _milliseconds(as_graph(fused, step.device), step.device)


def kernels(trainer: Trainer) -> Iterator[tuple[str, float, float]]:
    """The kernels that take longest: name, microseconds an update, launches an update."""
    from torch.profiler import ProfilerActivity, profile

    lay_out(trainer)
    on_gpu = trainer.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    update(trainer, 0)
    with profile(activities=activities, acc_events=True) as watched:
        for index in range(PROFILED):
            update(trainer, index)
        wait(trainer.device)
    found = [
        (event.key, event.self_device_time_total if on_gpu else event.self_cpu_time_total, event)
        for event in watched.key_averages()
        if not on_gpu or str(event.device_type).endswith("CUDA")
    ]
    found.sort(key=lambda entry: -entry[1])
    for name, microseconds, event in found[:MAX_KERNELS]:
        for filling in FILLING:
            name = name.replace(filling, "")
        yield name[:MAX_NAME], microseconds / PROFILED, event.count / PROFILED


def _pass(step: TrainStep, images: Tensor, labels: Tensor) -> None:
    torch.autograd.grad(F.cross_entropy(step.logits(images), labels), step.flat.parameters)


def _first_convolution(
    step: TrainStep, first: Convolution, images: Tensor, forward: Callable[[Tensor], Tensor]
) -> None:
    """Forward and backward of a net's first layer, as in a step."""
    kind, enabled = step.device.type, step.dtype != torch.float32
    with torch.autocast(kind, step.dtype, enabled=enabled, cache_enabled=False):
        outputs = forward(images)
    torch.autograd.grad(outputs, first.weight, outputs.detach())


def _milliseconds(work: Callable[[], None], device: torch.device) -> float:
    times = UPDATES if device.type == "cuda" else 1
    return 1_000 * median(rounds_of(work, device, ROUNDS, times))
