"""One small study by regsearch, Optuna + MLflow and Ray Tune, each as its user has it.

Each contender is a program of its own (`benchmarks.contenders`), so that start-up, imports and
tracking count, and runs alone on all cores.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.programs import environment
from pipeline.datasets.image_folder import ImageFolderSettings

CONTENDERS = {"regsearch": "regsearch", "Optuna + MLflow": "optuna_mlflow", "Ray Tune": "ray_tune"}
NEEDS = {"Ray Tune": "ray"}
QUIET = {"RAY_DEDUP_LOGS": "1", "RAY_CHDIR_TO_TRIAL_DIR": "0", "GIT_PYTHON_REFRESH": "quiet"}

NOTES = """\
A whole study as a program: {trials} trials of {epochs} epochs, `vgg` width {width}, batch 128,
AdamW, {images} training images of {folder}, random crop, flip, rotation and colour jitter; dropout,
weight decay and learning rate are searched by TPE, median pruning after one epoch from the fourth
trial on; every epoch is scored on the same {validation} validation images and told to MLflow (Ray
Tune: to its own logger). Everything counts: imports, calibration, tracking, and with regsearch also
the two baselines, which are never pruned, and the registration of three models; finalists are not
trained again, as nobody else does it.
*Optuna + MLflow*: their examples put together, one trial after another, with a DataLoader of 2
workers.
*Ray Tune*: a trial a core, each with a DataLoader of its own process.
Ratios are medians of {rounds} rounds, in which the contenders take turns. *Pruned* is the share of
epochs that pruning saved, and is no merit here: it depends on which trials came first."""


@dataclass(frozen=True)
class Setting:
    """What is studied."""

    folder: str
    trials: int = 12
    epochs: int = 5
    images: int = 5_000
    width: int = 16
    seed: int = 0


@dataclass(frozen=True)
class Outcome:
    """What a contender's study came to.

    Attributes:
        epochs: run, of all trials.
        best: the best validation accuracy of a trial.
        seconds: of the whole program.
    """

    epochs: int
    best: float
    seconds: float = 0.0


def run(quick: bool, folder: Path, out: Path | None, rounds: int) -> None:
    """Let the contenders take turns, and publish the table."""
    # Contenders import this file, and one of them has no use for torch in its own process.
    from benchmarks.results import publish
    from pipeline.datasets import load_splits

    setting = Setting(str(folder.resolve()), seed=0)
    if quick:
        setting = Setting(str(folder.resolve()), trials=4, epochs=2, images=1_280)
    names = [n for n in CONTENDERS if n not in NEEDS or find_spec(NEEDS[n]) is not None]
    outcomes: dict[str, list[Outcome]] = {name: [] for name in names}
    with TemporaryDirectory(prefix="images-") as cache:
        for seed in range(rounds):
            own = replace(setting, seed=seed)
            # decoded once for all, before they start
            validation = len(load_splits(images_of(own, cache), seed).validation)
            for name in names:
                outcomes[name].append(_play(name, own, cache))
                print(name, outcomes[name][-1], flush=True)
    rows = [_row(name, setting, outcomes) for name in names]
    missing = [f"{name} is not installed" for name in CONTENDERS if name not in names]
    notes = NOTES.format(
        **{**asdict(setting), "folder": folder.name}, validation=validation, rounds=rounds
    )
    publish("A small study, whole", "\n".join([notes, *missing]), rows, out)


def images_of(setting: Setting, cache: str) -> ImageFolderSettings:
    """Where the images are, and where they are kept decoded."""
    return ImageFolderSettings(root=setting.folder, train_images=setting.images, cache=cache)


def _play(name: str, setting: Setting, cache: str) -> Outcome:
    """One contender in an empty folder."""
    with TemporaryDirectory(prefix="study-") as place:
        command = [sys.executable, "-m", "benchmarks.contenders", CONTENDERS[name]]
        quiet = environment(**QUIET, PYTHONWARNINGS="ignore", BENCH_CACHE=cache)
        started = time.perf_counter()
        done = subprocess.run(
            [*command, json.dumps(asdict(setting))],
            cwd=place,
            env=quiet,
            capture_output=True,
            text=True,
            check=False,
        )
        seconds = time.perf_counter() - started
    if done.returncode:
        raise RuntimeError(f"{name} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    found = json.loads(done.stdout.strip().splitlines()[-1])
    return Outcome(**found, seconds=seconds)


def _row(name: str, setting: Setting, outcomes: dict[str, list[Outcome]]) -> dict[str, Any]:
    own = outcomes[name]

    def ratio(value: Any) -> str:
        pairs = zip(outcomes["regsearch"], own, strict=True)
        return _spread([value(mine) / value(theirs) for mine, theirs in pairs])

    allowed = setting.trials * setting.epochs
    return {
        "": name,
        "regsearch is faster, images/s": ratio(lambda o: o.epochs / o.seconds),
        "trials/h": ratio(lambda o: 1 / o.seconds),
        "seconds": f"{median(o.seconds for o in own):.0f}",
        "images/s": f"{median(o.epochs * setting.images / o.seconds for o in own):,.0f}",
        "pruned": f"{1 - median(o.epochs for o in own) / allowed:.0%}",
        "best validation accuracy": _spread([o.best for o in own], "{:.3f}"),
    }


def _spread(values: Sequence[float], text: str = "{:.2f}x") -> str:
    low, middle, high = (text.format(v) for v in (min(values), median(values), max(values)))
    return middle if len(values) == 1 else f"{middle} ({low} to {high})"
