"""Whether the fast loop learns as well: accuracy after the same epochs, seed by seed."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.cases import Case, load_images
from benchmarks.results import publish
from benchmarks.turns import Player
from pipeline.datasets import Splits
from pipeline.statistics import crossed_mean
from pipeline.training.precision import resolve_precision

NOTES = """\
Validation accuracy of `vgg` width {width} after {epochs} epochs on {train} training images of
{folder}, on {validation} others. Same net, batch of 128, Adam and augmentation ({augmentation});
both start from the same weights, and draw different batches and changes. regsearch trains in
{precision}, which it chooses by the processor, the tutorial in float32. Means with 95 % intervals
over seeds; the difference is taken seed by seed."""

SEEDS = tuple(range(8))
LOOPS = ("regsearch", "tutorial, short spins")  # the latter learns as the tutorial does, but sooner
AUGMENTATION = "crop + flip + rotation + jitter"


def run(quick: bool, folder: Path, out: Path | None) -> None:
    """Train with each seed, and publish the accuracies."""
    train, epochs, seeds = (1_280, 2, SEEDS[:2]) if quick else (5_120, 6, SEEDS)
    case = Case(16, AUGMENTATION)
    splits = load_images(folder, train, 2_000)
    scores = {
        name: np.array([accuracy(name, case, splits, seed, epochs) for seed in seeds])
        for name in LOOPS
    }
    ours, theirs = scores.values()
    rows = [_row(name, found) for name, found in scores.items()]
    rows.append(_row("difference", ours - theirs))
    notes = NOTES.format(
        width=case.width,
        epochs=epochs,
        train=train,
        folder=folder.name,
        validation=len(splits.validation),
        augmentation=case.augmentation,
        precision=str(resolve_precision("auto", torch.device("cpu"))).removeprefix("torch."),
    )
    publish("Accuracy beside the tutorial loop", notes, rows, out)


def _row(name: str, values: npt.NDArray[np.float64]) -> dict[str, Any]:
    columns = {f"seed {seed}": f"{value:.3f}" for seed, value in enumerate(values)}
    middle, half = crossed_mean(values[None])  # over its second axis alone, here the seeds
    return {"loop": name, **columns, "mean": f"{middle:.3f} ± {half:.3f}"}


def accuracy(name: str, case: Case, splits: Splits, seed: int, num_epochs: int) -> float:
    """Of the last epoch."""
    with closing(Player(name, case, splits, seed, num_epochs)) as player:
        return [player.turn()[1] for _ in range(num_epochs)][-1]
