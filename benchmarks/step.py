"""Images per second of a whole training epoch, augmentation included, in one interleaved run."""

from __future__ import annotations

from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.cases import AUGMENTATIONS, Case, load_images
from benchmarks.machine import busy_cores
from benchmarks.results import publish
from benchmarks.turns import CONTENDERS, Player
from pipeline.datasets import Splits

NOTES = """\
Ratios of images/s of an epoch, taken in turns within one run: the median of {rounds} rounds (lowest
to highest), after one epoch that does not count. The net is `vgg`, the batch 128, the optimizer
Adam, the images {images}.
*Tutorial*: DataLoader with 2 workers, PIL transforms image by image, float32.
*Tuned*: a DataLoader worker a core, kept alive; bfloat16 autocast, channels_last, fused Adam.
regsearch chooses threads and precision by measurement, as a study does. It and *tuned* run with
GOMP_SPINCOUNT=10000, without which OpenMP's idle threads spin in the way of whatever else runs: the
tutorial's own workers, and other programs. *Tutorial, short spins* is the tutorial with that
setting. *Busy* is how many cores other programs used before the rounds, the fewest to the most;
where it is over 0.5, the row says little."""

IMAGES = {16: 7_680, 64: 1_536}
QUICK_IMAGES = {16: 2_560, 64: 512}
VALIDATION_IMAGES = 100


@dataclass(frozen=True)
class Timing:
    """Images per second of each contender in each round, and how busy the machine was."""

    images_per_sec: dict[str, list[float]]
    busy_cores: list[float]

    def ratios(self, other: str) -> list[float]:
        """regsearch over another contender, round by round."""
        pairs = zip(self.images_per_sec["regsearch"], self.images_per_sec[other], strict=True)
        return [mine / theirs for mine, theirs in pairs]


def run(quick: bool, folder: Path | None, out: Path | None) -> None:
    """Time every width with every augmentation, and publish the table."""
    num_images, rounds = (QUICK_IMAGES, 1) if quick else (IMAGES, 3)
    augmentations = list(AUGMENTATIONS)[-1:] if quick else list(AUGMENTATIONS)
    rows = []
    for width, augmentation in product(num_images, augmentations):
        splits = load_images(folder, num_images[width], VALIDATION_IMAGES)
        timing = measure(Case(width, augmentation), splits, rounds)
        rows.append(_row(Case(width, augmentation), timing))
        print(rows[-1], flush=True)
    images = "random" if folder is None else f"of {folder.name}"
    publish("Speed of a training epoch", NOTES.format(rounds=rounds, images=images), rows, out)


def measure(case: Case, splits: Splits, rounds: int) -> Timing:
    """Let the contenders take turns."""
    timing = Timing({name: [] for name in CONTENDERS}, [])
    with ExitStack() as stack:
        players = {
            name: stack.enter_context(closing(Player(name, case, splits, 0, rounds + 1)))
            for name in CONTENDERS
        }
        for player in players.values():
            player.turn()
        for _ in range(rounds):
            timing.busy_cores.append(busy_cores())
            for name, player in players.items():
                timing.images_per_sec[name].append(player.turn()[0])
    return timing


def _row(case: Case, timing: Timing) -> dict[str, Any]:
    rates = [f"{median(rate):,.0f}" for rate in timing.images_per_sec.values()]
    others = [name for name in CONTENDERS if name != "regsearch"]
    return {
        "width": case.width,
        "augmentation": case.augmentation,
        **{f"over {name}": _spread(timing.ratios(name)) for name in others},
        "images/s, in the same order": " / ".join(rates),
        "busy": f"{min(timing.busy_cores):.1f} to {max(timing.busy_cores):.1f}",
    }


def _spread(values: list[float]) -> str:
    return f"{median(values):.2f}x ({min(values):.2f} to {max(values):.2f})"
