"""All figures of a GPU machine in one table, within nine minutes.

Each part is a process of its own with a time limit: if one fails or is too slow, its row says so,
and the others have theirs.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any

from benchmarks.results import record

if TYPE_CHECKING:
    from benchmarks.cases import Case
    from pipeline.datasets import Splits
    from pipeline.training.engine import Engine
    from pipeline.training.loop import Trainer

NOTES = """\
Images: {folder} (32x32). The net is the default `vgg` (width 64), the augmentation crop, flip,
rotation and colour jitter, the precision what `auto` means there. *Epoch*: seconds of training
alone, median of {epochs} after the first. *25 epochs*: everything from the first weights to the
best ones, capture and compilation included, with early stopping off; the tutorial and the tuned
DataLoader are timed for {few} epochs, and compared by seconds an epoch. *Step*: an
update of the recipe of `search_spaces/cifar.yaml`, by the step that all of its trials share;
*built* is how long that took, and *rebuilt* the same in a second process, from what is cached.
*Trainings on one GPU*: images/s of so many trainings over that of one; processes by the clock, all
that the host does included, streams by their updates without dropout, the fused net by its forward
and backward pass. *Study*: `regsearch run` as a program, 100 trials of 25 epochs, median pruning,
all of {folder}; finalists are not trained again."""

ENGINES: tuple[Engine, ...] = ("eager", "captured", "compiled")
LIMITS_SEC = {"tests": 200, "ceiling": 30, "step": 150, "training": 90, "loaders": 90, "study": 460,
              "rebuilt": 60, "epochs": 120, "overhead": 60, "sharing": 150}  # fmt: skip
"""In the order of their weight: what comes late may find no time left."""
PARTS = tuple(LIMITS_SEC)
TOTAL_SEC, MIN_SEC = 520.0, 5.0
BATCH_SIZES, SHARED_BY = (512, 128), (2, 4)
LINES_OF_FAILURE, MAX_PHASES = 3, 12
TEST_ENDED = re.compile(r"tests/\S+::.* (PASSED|FAILED|ERROR|SKIPPED)")

Row = dict[str, Any]


@dataclass(frozen=True)
class Setting:
    """What a part is given.

    Attributes:
        folder: of the images.
        deadline: the `time.time()` at which the part is ended.
    """

    folder: Path
    device: str
    quick: bool
    deadline: float


def run(quick: bool, folder: Path, device: str, out: Path | None, only: Sequence[str] = ()) -> None:
    """Run every part, or those that are named, and publish what they found."""
    title = f"On {_name(device)}"
    notes = NOTES.format(folder=folder.name, epochs=_epochs(quick), few=_few(quick))
    began, rows = time.monotonic(), list[Row]()
    for part in only or PARTS:
        left = TOTAL_SEC - (time.monotonic() - began)
        for row in _run_part(part, folder, device, quick, left):
            print(f"{row['what']}: {row['value']}", flush=True)
            rows.append(row)
            record(title, notes, rows, out)  # the machine may be taken away at any time
    print(record(title, notes, rows, out))


def _run_part(part: str, folder: Path, device: str, quick: bool, left_sec: float) -> Iterator[Row]:
    """A part's rows as they come, and one more where it failed or was too slow; nothing of it goes
    on."""
    limit = min(LIMITS_SEC[part], left_sec)
    if limit < MIN_SEC:
        yield {"what": part, "value": "no time was left"}
        return
    setting = json.dumps([str(folder), device, quick, time.time() + limit])
    command = [sys.executable, "-m", "benchmarks.gpu", part, setting]
    pipe = subprocess.PIPE
    with (
        TemporaryFile("w+") as complaints,
        subprocess.Popen(
            command, stdout=pipe, stderr=complaints, text=True, start_new_session=True
        ) as process,
    ):
        assert process.stdout is not None
        is_late = threading.Event()

        def end() -> None:
            is_late.set()
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)

        timer = threading.Timer(limit, end)
        timer.start()
        try:
            for line in process.stdout:
                if line[:2] == '{"':
                    yield json.loads(line)
            code = process.wait()
        except BaseException:  # Ctrl-C, say
            end()
            raise
        finally:
            timer.cancel()
        if is_late.is_set():
            yield {"what": part, "value": f"not done within {limit:.0f} s"}
        elif code:
            complaints.seek(0)
            failure = " / ".join(complaints.read().strip().splitlines()[-LINES_OF_FAILURE:])
            yield {"what": part, "value": f"failed: {failure or 'no message'}"}


def _epochs(quick: bool) -> int:
    return 2 if quick else 5


def _few(quick: bool) -> int:
    return 1 if quick else 2


def _name(device: str) -> str:
    import torch

    return torch.cuda.get_device_name(device) if device.startswith("cuda") else "the CPU"


def _tell(what: str, value: str) -> None:
    print(json.dumps({"what": what, "value": value}), flush=True)


def _tell_why_not(what: str, error: RuntimeError) -> None:
    from pipeline.training.engine import first_line

    _tell(what, f"can't be had: {first_line(error)}")


def tests(_: Setting) -> None:
    """The tests that need a GPU, in one process: a row each, and what went wrong."""
    files = [str(p) for p in Path("tests").rglob("test_*.py") if "mark.gpu" in p.read_text("utf-8")]
    options = ["-m", "gpu", "-v", "-n", "0", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", *files, *options]
    line = ""
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        for told in process.stdout:
            line = told.strip() or line
            if TEST_ENDED.match(told) or told.startswith(("ERROR", "E   ")):
                _tell("GPU tests", line)
    _tell("GPU tests", line)


def ceiling(setting: Setting) -> None:
    """Products and copies."""
    from benchmarks.ceiling import measure_ceiling

    _tell("ceiling", str(measure_ceiling(setting.device)))


def step(setting: Setting) -> None:
    """An update by each engine, what it is made of, and what of it might be had for less."""
    from benchmarks.gpu_step import candidates, kernels, parts
    from benchmarks.gpu_training import images

    splits = images(setting.folder, setting.quick)
    trainers = {engine: _timed_step(engine, BATCH_SIZES[0], setting, splits) for engine in ENGINES}
    eager = trainers["eager"]
    assert eager is not None, "operations need no engine"
    for told in (parts, candidates):
        for name, taken in told(eager):
            _tell(f"step, {name}", f"{taken:.3f} ms")
    for engine in ("eager", "compiled"):  # the captured one has the eager one's
        trainer = trainers[engine]
        for place, (name, taken, launches) in enumerate(kernels(trainer) if trainer else (), 1):
            value = f"{taken:,.0f} us in {launches:.0f} launches: {name}"
            _tell(f"step, {engine}, kernel {place}", value)
    for engine in ENGINES[1:]:
        _timed_step(engine, BATCH_SIZES[1], setting, splits)


def rebuilt(setting: Setting) -> None:
    """The compiled step again, by another process: each worker builds it from what is cached."""
    from torch._dynamo.utils import compile_times, counters

    from benchmarks.gpu_training import images

    splits = images(setting.folder, setting.quick)
    if _timed_step("compiled", BATCH_SIZES[0], setting, splits) is None:
        return
    found = {key: count for key, count in counters["inductor"].items() if "fxgraph" in key}
    _tell("rebuilt, graphs", ", ".join(f"{key}: {count}" for key, count in found.items()))
    times: Any = compile_times("csv", aggregate=True)
    phases = [(name, float(seconds)) for name, seconds in zip(*times, strict=True)]
    for name, taken in sorted(phases, key=lambda phase: -phase[1])[:MAX_PHASES]:
        _tell(f"rebuilt, {name}", f"{taken:.1f} s")


def _timed_step(
    engine: Engine, batch_size: int, setting: Setting, splits: Splits
) -> Trainer | None:
    """A training by that engine, its building and its updates timed; None if it can't be had."""
    from benchmarks.gpu_step import milliseconds
    from benchmarks.gpu_training import study_trainer

    what, started = f"step, batch {batch_size}, {engine}", time.perf_counter()
    try:
        trainer = study_trainer(engine, batch_size, setting.folder, splits, setting.device)
    except RuntimeError as error:
        _tell_why_not(what, error)
        return None
    built = time.perf_counter() - started
    _tell(what, f"{milliseconds(trainer):.2f} ms (built in {built:.1f} s)")
    return trainer


def epochs(setting: Setting) -> None:
    """Seconds an epoch, by batch size and engine."""
    from statistics import median

    from benchmarks.ceiling import forward_flops, measure_ceiling
    from benchmarks.gpu_training import CASES, images, train

    quick, device = setting.quick, setting.device
    splits, best = images(setting.folder, quick), measure_ceiling(device)
    for case in reversed(CASES):
        per_image = 3 * forward_flops(case)
        used = len(splits.train) // case.batch_size * case.batch_size
        for engine in ENGINES:
            what = f"epoch, batch {case.batch_size}, {engine} (share of the products' ceiling)"
            try:
                seconds: list[float] = []
                train(case, splits, device, engine, _epochs(quick) + 1, seconds.append)
                rate = used / median(seconds[1:])
                share = per_image * rate / best.flops_per_sec
                _tell(what, f"{median(seconds[1:]):.3f} s ({rate:,.0f} images/s, {share:.0%})")
            except RuntimeError as error:
                _tell_why_not(what, error)


def training(setting: Setting) -> None:
    """25 epochs of the default net, from first weights to best."""
    from tempfile import TemporaryDirectory

    from benchmarks.gpu_training import CASES, images, train

    quick, device = setting.quick, setting.device
    splits, case, count = images(setting.folder, quick), CASES[-1], 2 if quick else 25
    train(case, splits, device, "eager", 1, lambda _: None)  # the device's libraries are loaded
    for engine in ENGINES[1:]:
        with TemporaryDirectory() as cache:
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache  # or it would have compiled before
            started = time.perf_counter()
            result = train(case, splits, device, engine, count, lambda _: None)
            seconds = time.perf_counter() - started
        accuracy = result.metrics["validation/accuracy"]
        _tell(f"{count} epochs, {engine}", f"{seconds:.1f} s, validation accuracy {accuracy:.4f}")


def loaders(setting: Setting) -> None:
    """The DataLoader loops, by seconds an epoch."""
    from statistics import mean

    from benchmarks.gpu_training import CASES, dataloader_epochs, images, train

    quick, device = setting.quick, setting.device
    splits, case, few = images(setting.folder, quick), CASES[-1], _few(quick)
    seconds: list[float] = []
    train(case, splits, device, "captured", few + 1, seconds.append)
    ours = mean(seconds[1:])
    for name in ("tutorial", "tuned"):
        theirs = mean(dataloader_epochs(name, case, splits, device, few))
        _tell(f"epoch, {name} DataLoader", f"{theirs:.2f} s, {theirs / ours:.1f}x of captured")


def sharing(setting: Setting) -> None:
    """Several trainings on one GPU."""
    from benchmarks.gpu_sharing import fused, processes, streams
    from benchmarks.gpu_training import CASES, images

    folder, quick, device = setting.folder, setting.quick, setting.device
    splits = images(folder, quick)
    ways: dict[str, Callable[[int, Case], float]] = {
        "streams": lambda count, case: streams(count, case, splits, device),
        "one fused net": lambda count, case: fused(count, case, device),
        "processes": lambda count, case: processes(count, case, folder, device, quick),
    }
    for name, together in ways.items():
        for case in CASES:
            what = f"trainings on one GPU, batch {case.batch_size}, {name}"
            try:
                alone = together(1, case)
                gains = {count: together(count, case) / alone for count in SHARED_BY}
            except RuntimeError as error:
                _tell_why_not(what, error)
                continue
            _tell(what, ", ".join(f"{count}: {gain:.2f}x" for count, gain in gains.items()))


def overhead(setting: Setting) -> None:
    """Time that is not training, on that machine's CPU."""
    from benchmarks.overhead import WORKERS, side_by_side_row

    for workers in WORKERS[: 1 if setting.quick else None]:
        row = side_by_side_row(workers, 8)
        _tell(
            f"overhead, {row['']}", f"{row['ms a trial']} ms a trial, {row['ms an epoch']} an epoch"
        )


def study(setting: Setting) -> None:
    """100 trials of 25 epochs, or as many as there is time for."""
    from benchmarks.gpu_training import run_study

    what = "study, 3 trials x 2 epochs" if setting.quick else "study, 100 trials x 25 epochs"
    _tell(what, run_study(setting.folder, setting.device, setting.quick, setting.deadline))


if __name__ == "__main__":
    part: Callable[[Setting], None] = globals()[sys.argv[1]]
    folder, *rest = json.loads(sys.argv[2])
    part(Setting(Path(folder), *rest))
