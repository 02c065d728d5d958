"""Loading in a cold process with a warm file cache, and a worker's memory over 100 trials."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.results import publish
from pipeline.datasets import load_splits
from pipeline.datasets.image_folder import ImageFolderSettings

NOTES = """\
*Loading*: a new process has {images} images of {folder} (32x32, all three splits) on the device, as
a worker does: mapped from the kept file, whose digest it checks. Seconds, median of {rounds}; the
files are in the kernel's cache. *torch* is the import alone, in the same process.
*A worker's memory*: one process runs trials of one epoch, one after another (`vgg` width 16, batch
128, every number of the space drawn anew), on all images' validation split and {small} of the
training images, after one epoch on all {train} of them. MB: *peak* is the process's largest
resident set, *own* what it does not share with other workers (the mapped images are shared).
*Freed memory kept*: images/s of a step with glibc told to keep freed memory, as workers do, over
images/s as it comes: two processes that take turns on all cores, median of {turns} turns."""

TRIALS, SMALL, ROUNDS, TURNS = 100, 640, 5, 5
WIDTHS, UPDATES = (16, 64), {16: 15, 64: 4}

LOADING = """
import json, sys, time
started = time.perf_counter()
import torch
imported = time.perf_counter()
from pipeline.datasets import load_splits
from pipeline.datasets.image_folder import ImageFolderSettings
from pipeline.training.data import DeviceData
splits = load_splits(ImageFolderSettings(root=sys.argv[1], cache=sys.argv[2]), 0)
data = DeviceData.from_splits(splits, torch.device(sys.argv[3]), 0)
int(data.train.images[-1].sum())
ended = time.perf_counter()
print(json.dumps({"torch": imported - started, "loading": ended - imported}))
"""


def run(quick: bool, folder: Path, out: Path | None) -> None:
    """Measure both, and publish them."""
    trials, rounds = (10, 2) if quick else (TRIALS, ROUNDS)
    root = str(folder.resolve())
    with TemporaryDirectory(prefix="images-") as cache:
        splits = load_splits(ImageFolderSettings(root=root, cache=cache), 0)
        load_splits(ImageFolderSettings(root=root, cache=cache, train_images=SMALL), 0)
        loads = [_load(root, cache) for _ in range(rounds)]
        spawn = multiprocessing.get_context("spawn")
        queue = spawn.SimpleQueue()
        worker = spawn.Process(target=_work, args=(root, cache, trials, queue))
        worker.start()
        memory = queue.get()
        worker.join()
    gains = {width: _gains(width, 2 if quick else TURNS) for width in WIDTHS}
    rows: list[dict[str, Any]] = [
        {"": f"{name}, s", "value": f"{median(load[key] for load in loads):.2f}"}
        for name, key in (("loading to the device", "loading"), ("importing torch", "torch"))
    ]
    rows += [{"": f"{when}, MB", "value": f"{size:,.0f}"} for when, size in memory.items()]
    for width, ratios in gains.items():
        value = f"{median(ratios):.2f}x ({min(ratios):.2f} to {max(ratios):.2f})"
        rows.append({"": f"freed memory kept, width {width}", "value": value})
    notes = NOTES.format(
        turns=TURNS,
        images=sum(map(len, (splits.train, splits.validation, splits.selection))),
        folder=folder.name,
        rounds=rounds,
        small=SMALL,
        train=len(splits.train),
    )
    publish("Loading and memory", notes, rows, out)


def _gains(width: int, turns: int) -> list[float]:
    """How much faster a step is, turn by turn, where freed memory is kept."""
    spawn = multiprocessing.get_context("spawn")
    ends = {}
    for kept in (False, True):
        own, other = spawn.Pipe()
        spawn.Process(target=_step, args=(width, kept, other), daemon=True).start()
        own.recv()
        ends[kept] = own
    ratios = []
    for _ in range(turns):
        seconds = {}
        for kept, end in ends.items():
            end.send(True)
            seconds[kept] = end.recv()
        ratios.append(seconds[False] / seconds[True])
    for end in ends.values():
        end.send(False)
    return ratios


def _step(width: int, kept: bool, end: Any) -> None:
    """Seconds of some updates, whenever asked."""
    import time

    import torch

    from benchmarks.cases import AUGMENTATIONS, Case, load_images
    from benchmarks.loops import METRIC, net_of, recipe_of
    from pipeline.memory import keep_freed
    from pipeline.seeding import TrialSeeds
    from pipeline.training.data import DeviceData
    from pipeline.training.loop import Trainer

    if kept:
        keep_freed()
    case, splits = Case(width, list(AUGMENTATIONS)[-1]), load_images(None, 2_560, 100)
    data = DeviceData.from_splits(splits, torch.device("cpu"), 0)
    recipe = recipe_of(case, 1, "float32")
    trainer = Trainer(net_of(case, splits, 0), data, recipe, METRIC, TrialSeeds.of(0, 0))
    trainer.model.train()
    trainer.epoch = 1
    trainer.begin_epoch()
    trainer.run_step()
    end.send(None)
    while end.recv():
        trainer.step.rewind()
        started = time.perf_counter()
        for _ in range(UPDATES[width]):
            trainer.run_step()
        end.send(time.perf_counter() - started)


def _load(root: str, cache: str) -> dict[str, float]:
    command = [sys.executable, "-c", LOADING, root, cache, "cpu"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def _work(root: str, cache: str, trials: int, queue: Any) -> None:
    """A worker's trainings without its study."""
    import random

    import torch

    from pipeline.memory import keep_freed
    from pipeline.models import build_model
    from pipeline.models.vgg import VggSettings
    from pipeline.seeding import TrialSeeds
    from pipeline.training.data import DeviceData
    from pipeline.training.engine import Steps
    from pipeline.training.loop import Trainer
    from pipeline.training.recipe import Recipe
    from pipeline.training.structure import Structure

    keep_freed()
    torch.set_num_threads(1)
    settings, net = ImageFolderSettings(root=root, cache=cache), VggSettings(width=16)

    def train(steps: Steps, trial: int) -> None:
        chance = random.Random(trial)
        recipe = Recipe.model_validate(
            {
                "training": {
                    "epochs": 1,
                    "precision": "float32",
                    "optimizer": {"weight_decay": chance.random()},
                },
                "regularization": {
                    "dropout": chance.random(),
                    "label_smoothing": chance.random(),
                    "mixup_alpha": chance.random(),
                    "ema_decay": chance.random(),
                },
                "augmentation": {"strength": chance.random()},
            }
        )
        data = steps.data
        model = build_model(net, recipe.regularization, data.image_shape, data.num_classes)
        shared = steps.get(net, model, recipe, Structure.of(recipe))
        seeds = TrialSeeds.of(0, trial)
        Trainer(model, data, recipe, "validation/accuracy", seeds, shared).fit(lambda *_: None)

    def steps_on(chosen: ImageFolderSettings) -> Steps:
        return Steps(DeviceData.from_splits(load_splits(chosen, 0), torch.device("cpu"), 0))

    sizes = {}
    train(steps_on(settings), 0)
    sizes["peak, one epoch on all images"] = _megabytes("VmHWM")
    steps = steps_on(settings.model_copy(update={"train_images": SMALL}))
    for trial in range(trials):
        train(steps, trial)
        if trial + 1 in (10, trials):
            sizes[f"own, after {trial + 1} trials"] = _megabytes("RssAnon")
    sizes[f"peak, after {trials} trials"] = _megabytes("VmHWM")
    queue.put(sizes)


def _megabytes(field: str) -> float:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/{os.getpid()}/status has no {field}")
