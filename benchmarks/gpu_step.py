"""What an update takes on a GPU: its parts, its kernels, and what might be done otherwise.

The recipe is that of `search_spaces/cifar.yaml`, with all that any of its trials may need.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from statistics import median

import torch
from torch import nn
from torch.nn import functional as F

from pipeline.training.loop import Trainer
from pipeline.training.step import TrainStep

ROUNDS, UPDATES, WARM_UPS = 5, 40, 3
PROFILED, MAX_KERNELS = 8, 15


def milliseconds(trainer: Trainer) -> float:
    """Of an update as it is run, the median of several rounds."""
    _lay_out(trainer)
    position = 0

    def update() -> None:
        nonlocal position
        if position % trainer.steps_per_epoch == 0:
            trainer.step.rewind()
        position += 1
        trainer.run_step()

    return _milliseconds(update, trainer.device)


def parts(trainer: Trainer) -> Iterator[tuple[str, float]]:
    """The milliseconds of a step's parts, each captured by itself where there is a GPU."""
    _lay_out(trainer)
    step = trainer.step
    images, targets = step._batch()
    gradients = tuple(torch.randn_like(p) / 1_000 for p in step.flat.parameters)
    zero = torch.zeros((), device=step.device)

    def batch() -> None:
        step.rewind()
        step._batch()

    def net() -> None:
        logits = _logits(step, images)
        torch.autograd.grad(F.cross_entropy(logits, targets.labels), step.flat.parameters)

    def update() -> None:
        step.rewind()
        step.update(gradients, zero, zero)

    for name, part in (("batch and augmentation", batch), ("net", net), ("update", update)):
        yield name, _milliseconds(_captured(part, step.device), step.device)


def kernels(trainer: Trainer) -> Iterator[tuple[str, float, float]]:
    """The kernels that take longest: name, microseconds an update, launches an update."""
    from torch.profiler import ProfilerActivity, profile

    _lay_out(trainer)
    on_gpu = trainer.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    trainer.run_step()
    with profile(activities=activities) as watched:
        for _ in range(PROFILED):
            trainer.step.rewind()
            trainer.run_step()
        _wait(trainer.device)
    found = [
        (event.key, event.self_device_time_total if on_gpu else event.self_cpu_time_total, event)
        for event in watched.key_averages()
        if not on_gpu or str(event.device_type).endswith("CUDA")
    ]
    found.sort(key=lambda entry: -entry[1])
    for name, microseconds, event in found[:MAX_KERNELS]:
        yield name, microseconds / PROFILED, event.count / PROFILED


def candidates(trainer: Trainer) -> Iterator[tuple[str, float]]:
    """Milliseconds of what is not done now: to be held against `parts`.

    The net with its first layer's channels padded to 4 and 8, and with cuDNN's own choice among its
    algorithms; AdamW's update by torch's fused kernel, whose betas a capture repeats for ever.
    """
    _lay_out(trainer)
    step = trainer.step
    images, targets = step._batch()
    first = next(m for m in step.model.modules() if isinstance(m, nn.Conv2d))

    def padded(channels: int) -> Callable[[], None]:
        extra = channels - first.in_channels
        filters = F.pad(first.weight.detach(), (0, 0, 0, 0, 0, extra)).requires_grad_()
        inputs = F.pad(images, (0, 0, 0, 0, 0, extra)).contiguous(memory_format=torch.channels_last)

        def work() -> None:
            with torch.autocast(step.device.type, step.dtype, cache_enabled=False):
                outputs = F.conv2d(inputs, filters, padding=first.padding)
            torch.autograd.grad(outputs.float().sum(), filters)

        return work

    for channels in (first.in_channels, 4, 8):
        work = _captured(padded(channels), step.device)
        yield f"first convolution, {channels} channels", _milliseconds(work, step.device)

    def net() -> None:
        logits = _logits(step, images)
        torch.autograd.grad(F.cross_entropy(logits, targets.labels), step.flat.parameters)

    torch.backends.cudnn.benchmark = True
    yield (
        "net, cuDNN's choice measured",
        _milliseconds(_captured(net, step.device), step.device),
    )
    torch.backends.cudnn.benchmark = False
    values, gradient, mean, square = torch.rand(4, len(step.flat.values), device=step.device)
    count, rate = torch.zeros(2, device=step.device).unbind()

    def fused() -> None:
        torch._fused_adamw_(
            [values], [gradient], [mean], [square], [], [count],
            lr=rate, beta1=0.9, beta2=0.999, weight_decay=0.0, eps=1e-8,
            amsgrad=False, maximize=False,
        )  # fmt: skip

    yield "AdamW, torch's kernel", _milliseconds(_captured(fused, step.device), step.device)


def _logits(step: TrainStep, images: torch.Tensor) -> torch.Tensor:
    with torch.autocast(
        step.device.type,
        step.dtype,
        enabled=step.dtype != torch.float32,
        cache_enabled=False,
    ):
        logits: torch.Tensor = step.model(images)
    return logits.float()


def _lay_out(trainer: Trainer) -> None:
    trainer.model.train()
    trainer.epoch = 1
    trainer.begin_epoch()


def _captured(work: Callable[[], None], device: torch.device) -> Callable[[], None]:
    if device.type != "cuda":
        return work
    aside = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    aside.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(aside):
        for _ in range(WARM_UPS):
            work()
    torch.cuda.current_stream(device).wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay


def _milliseconds(work: Callable[[], None], device: torch.device) -> float:
    count = UPDATES if device.type == "cuda" else 1
    taken = []
    for turn in range(1 + ROUNDS):
        started = time.perf_counter()
        for _ in range(count):
            work()
        _wait(device)
        if turn:
            taken.append((time.perf_counter() - started) / count)
    return 1_000 * median(taken)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
