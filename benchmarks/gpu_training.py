"""What `benchmarks.gpu` times: trainings of the default net, and a whole study."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch.nn import functional as F

from benchmarks.cases import AUGMENTATIONS, Case, load_images
from benchmarks.loops import METRIC, net_of, pil_loader, recipe_of
from benchmarks.programs import environment
from pipeline.calibration import Precision
from pipeline.config import RunConfig
from pipeline.config.space_file import load_space
from pipeline.datasets import Splits, load_splits
from pipeline.events import EpochEnded
from pipeline.journal import JournalReader
from pipeline.seeding import TrialSeeds
from pipeline.trainers import Trainers
from pipeline.training.data import DeviceData
from pipeline.training.engine import Engine, Note, Steps
from pipeline.training.loop import FitResult, Trainer
from pipeline.training.precision import resolve_precision
from pipeline.training.structure import Structure

SUMMED_UP = re.compile(r"\d+ of \d+ trials finished|pruning ")
"""The lines of a run's summary that are quoted."""
ENDING_SEC = 45.0
"""For the trial that runs, and for the registration of what a study has found."""
CASES = tuple(Case(64, list(AUGMENTATIONS)[-1], batch_size) for batch_size in (128, 512))


def images(folder: Path, quick: bool) -> Splits:
    """The folder's images; a few of them where it is to be quick."""
    return load_images(folder, 1_024 if quick else None, 1_000 if quick else 5_000)


def train(
    case: Case,
    splits: Splits,
    device: str,
    engine: Engine,
    num_epochs: int,
    report: Callable[[float], None],
) -> FitResult:
    """One training by an engine; `report` is told the seconds of each epoch's updates.

    Raises:
        RuntimeError: the engine can't be had there.
    """

    def each_epoch(_: int, metrics: Mapping[str, float]) -> None:
        report(metrics["epoch_sec"])

    return trainer_by(engine, case, splits, device, num_epochs).fit(each_epoch)


def trainer_by(engine: Engine, case: Case, splits: Splits, device: str, num_epochs: int) -> Trainer:
    """A training by an engine, from its start.

    Raises:
        RuntimeError: the engine can't be had there.
    """
    where = torch.device(device)
    data = DeviceData.from_splits(splits, where, seed=0)
    dtype = resolve_precision("auto", where)
    precision: Precision = "bfloat16" if dtype == torch.bfloat16 else "float32"
    recipe = recipe_of(case, num_epochs, precision)
    model = net_of(case, splits, seed=0)
    steps = Steps(data, engine, _refuse_on(where))
    shared = steps.get(case.net, model, recipe, Structure.of(recipe))
    return Trainer(model, data, recipe, METRIC, TrialSeeds.of(0, 0), shared)


def dataloader_epochs(
    name: str, case: Case, splits: Splits, device: str, num_epochs: int
) -> Iterator[float]:
    """Seconds an epoch of the tutorial's loop or a tuned one, on the device; the first is left out,
    as it starts the loader's processes."""
    is_tuned = name == "tuned"
    where = torch.device(device)
    dtype = resolve_precision("auto", where) if is_tuned else torch.float32
    layout = torch.channels_last if is_tuned else torch.contiguous_format
    net = net_of(case, splits, seed=0).to(where).to(memory_format=layout)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, fused=is_tuned or None)
    workers = len(os.sched_getaffinity(0)) if is_tuned else 2
    options: dict[str, Any] = {"pin_memory": where.type == "cuda"} if is_tuned else {}
    loader = pil_loader(case, splits, num_workers=workers, persistent_workers=is_tuned, **options)
    for epoch in range(num_epochs + 1):
        started = time.perf_counter()
        for batch, labels in loader:
            batch_there = batch.to(where, memory_format=layout, non_blocking=is_tuned)
            labels_there = labels.to(where, non_blocking=is_tuned)
            with torch.autocast(where.type, dtype, enabled=dtype != torch.float32):
                loss = F.cross_entropy(net(batch_there), labels_there)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        loss.item()
        if epoch:
            yield time.perf_counter() - started


def study_trainer(
    engine: Engine, batch_size: int, folder: Path, splits: Splits, device: str
) -> Trainer:
    """A training of `search_spaces/cifar.yaml`'s recipe, by the step that its trials share.

    Raises:
        RuntimeError: the engine can't be had there.
    """
    where = torch.device(device)
    with TemporaryDirectory(prefix="space-") as place:
        config = study_config(folder, Path(place), {"training.batch_size": batch_size})
    config = config.with_overrides({"training.engine": engine})
    data = DeviceData.from_splits(splits, where, seed=0)
    return Trainers(config, data, _refuse_on(where)).make(config, seed=0)


def _refuse_on(device: torch.device) -> Note:
    """What falls back to another engine ends there instead; a CPU has but one."""

    def refuse(note: str) -> None:
        if device.type == "cuda":
            raise RuntimeError(note)

    return refuse


def study_config(folder: Path, place: Path, changes: Mapping[str, object]) -> RunConfig:
    """`search_spaces/cifar.yaml` with these images and changes, written to `place`/space.yaml."""
    text = Path("search_spaces/cifar.yaml").read_text(encoding="utf-8")
    own = {"data.root": folder.resolve(), "data.kind": "image_folder"}
    path = place / "space.yaml"
    path.write_text(_with_changes(text, own | dict(changes)), encoding="utf-8")
    return load_space(path, []).config


def run_study(folder: Path, device: str, quick: bool, deadline: float) -> str:
    """`regsearch run` on search_spaces/cifar.yaml with these images: its time and its result.

    The images are decoded before it starts. Finalists are not trained again.

    Args:
        deadline: the `time.time()` by which it has to be over; `ENDING_SEC` before it, no trial
            starts any more, and the result is of those that there are.
    """
    trials, epochs = (3, 2) if quick else (100, 25)
    with TemporaryDirectory(prefix="study-") as place:
        changes: dict[str, object] = {
            "data.cache": f"{place}/cache",
            "study.trials": trials,
            "training.epochs": epochs,
            "study.pruner.warmup_epochs": min(5, epochs - 1),
            "finalists.count": 0,
        }
        if quick:
            changes["data.train_images"] = 1_024
        config = study_config(folder, Path(place), changes)
        load_splits(config.data, config.study.seed)
        started = time.time()
        limit = deadline - ENDING_SEC - started
        if limit <= 0:
            return "no time was left"
        options = ["--device", device, "--timeout", str(limit)]
        command = [sys.executable, "-m", "pipeline", "run", "space.yaml", *options]
        done = subprocess.run(
            command, cwd=place, env=environment(), capture_output=True, text=True, check=False
        )
        seconds = time.time() - started
        told = [line for line in done.stdout.splitlines() if SUMMED_UP.match(line)]
        if done.returncode:
            raise RuntimeError(f"{done.stdout[-500:]}\n{done.stderr[-2000:]}")
        told.append(_where_time_went(Path(place, "mlruns/journal"), started))
    return f"{seconds:.0f} s; " + "; ".join(told)


def _where_time_went(journals: Path, started: float) -> str:
    """When the first epoch had ended, and what came between an epoch's updates and the next ones of
    the same trial."""
    [folder] = journals.iterdir()
    events = JournalReader(folder).read()
    epochs = [event for event in events if isinstance(event, EpochEnded)]
    first = epochs[0].time_ms / 1000 - started
    training = mean(epoch.metrics["epoch_sec"] for epoch in epochs)
    between = [
        (one.time_ms - other.time_ms) / 1000 - one.metrics["epoch_sec"]
        for other, one in pairwise(sorted(epochs, key=lambda epoch: (epoch.trial, epoch.time_ms)))
        if one.trial == other.trial
    ]
    return (
        f"first epoch after {first:.0f} s; {len(epochs)} epochs with {training:.3f} s of updates "
        f"each, and {1000 * mean(between):.0f} ms until the next ones"
    )


def _with_changes(space: str, changes: Mapping[str, object]) -> str:
    """A space file with other values at dotted paths; a section may be given whole, as YAML."""
    import yaml

    content = yaml.safe_load(space)
    for path, value in changes.items():
        *sections, key = path.split(".")
        place = content
        for section in sections:
            place = place.setdefault(section, {})
        place[key] = yaml.safe_load(str(value))
    return str(yaml.safe_dump(content, sort_keys=False))
