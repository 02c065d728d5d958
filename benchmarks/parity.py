"""Whether the fast loop learns as well: accuracy after the same epochs, seed by seed."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from benchmarks.cases import Case, load_images
from benchmarks.results import publish
from benchmarks.turns import Player
from pipeline.datasets import Splits

NOTES = """\
Validation accuracy of `vgg` width {width} after {epochs} epochs on {train} training images of
{folder}, on {validation} others. Same net, batch of 128, Adam and augmentation ({augmentation});
both start from the same weights, and draw different batches and changes."""

SEEDS = (0, 1, 2)
LOOPS = ("regsearch", "tutorial, short spins")  # the latter learns as the tutorial does, but sooner
AUGMENTATION = "crop + flip + rotation + jitter"


def run(quick: bool, folder: Path, out: Path | None) -> None:
    """Train with each seed, and publish the accuracies."""
    train, epochs, seeds = (1_280, 2, SEEDS[:2]) if quick else (5_120, 6, SEEDS)
    case = Case(16, AUGMENTATION)
    splits = load_images(folder, train, 2_000)
    rows: list[dict[str, Any]] = []
    for name in LOOPS:
        scores = [accuracy(name, case, splits, seed, epochs) for seed in seeds]
        columns = {
            f"seed {seed}": f"{score:.3f}" for seed, score in zip(seeds, scores, strict=True)
        }
        rows.append({"loop": name, **columns, "mean": f"{mean(scores):.3f} ± {stdev(scores):.3f}"})
    notes = NOTES.format(
        width=case.width,
        epochs=epochs,
        train=train,
        folder=folder.name,
        validation=len(splits.validation),
        augmentation=case.augmentation,
    )
    publish("Accuracy beside the tutorial loop", notes, rows, out)


def accuracy(name: str, case: Case, splits: Splits, seed: int, num_epochs: int) -> float:
    """Of the last epoch."""
    with closing(Player(name, case, splits, seed, num_epochs)) as player:
        return [player.turn()[1] for _ in range(num_epochs)][-1]
