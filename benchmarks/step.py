"""Images per second of a whole training epoch, augmentation included, in one interleaved run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.cases import AUGMENTATIONS, Case, load_images
from benchmarks.ceiling import Ceiling, forward_flops, measure_ceiling
from benchmarks.machine import busy_cores
from benchmarks.results import publish
from benchmarks.turns import ALL_CORES, CONTENDERS, contender
from pipeline.datasets import Splits

NOTES = """\
Ratios of images/s of an epoch, taken in turns within one run: the median of {rounds} rounds (lowest
to highest), after one epoch that does not count. The net is `vgg`, the batch 128, the optimizer
Adam, the images {images}.
*regsearch, one*: one trainer, with the threads that are fastest for it; *a worker a core*: as many
trainers of one thread as there are cores, which is how a study fills the machine.
*Tutorial*: DataLoader with 2 workers, PIL transforms image by image, float32.
*Tuned*: a DataLoader worker a core, kept alive; channels_last, fused Adam, bfloat16 autocast where
the processor gains by it, which regsearch measures, too. It and *tuned* run with
GOMP_SPINCOUNT=10000, without which OpenMP's idle threads spin in the way of whatever else runs: the
tutorial's own workers, and other programs. *Tutorial, short spins* is the tutorial with that
setting. *Busy* is how many cores other programs used before the rounds, the fewest to the most;
where it is over 0.5, the row says little.
The ceiling, measured in the same run on all cores: {ceiling}. The share of it counts the products
of convolutions and linear layers, forward and backward, and nothing else."""

IMAGES = {16: 2_560, 64: 512}
QUICK_IMAGES = {16: 1_280, 64: 256}
VALIDATION_IMAGES = 100


@dataclass(frozen=True)
class Timing:
    """Images per second of each contender in each round, and how busy the machine was."""

    images_per_sec: dict[str, list[float]]
    busy_cores: list[float]

    def ratios(self, name: str, other: str) -> list[float]:
        """One contender over another, round by round."""
        pairs = zip(self.images_per_sec[name], self.images_per_sec[other], strict=True)
        return [mine / theirs for mine, theirs in pairs]


def run(quick: bool, folder: Path | None, out: Path | None) -> None:
    """Time every width with every augmentation, and publish the table."""
    num_images, rounds = (QUICK_IMAGES, 1) if quick else (IMAGES, 5)
    augmentations = list(AUGMENTATIONS)[-1:] if quick else list(AUGMENTATIONS)
    rows: list[dict[str, Any]] = []
    ceiling = measure_ceiling()
    for width, augmentation in product(num_images, augmentations):
        splits = load_images(folder, num_images[width], VALIDATION_IMAGES)
        timing = measure(Case(width, augmentation), splits, rounds)
        rows += _rows(Case(width, augmentation), timing, ceiling)
        print(*rows[-2:], sep="\n", flush=True)
    images = "random" if folder is None else f"of {folder.name}"
    notes = NOTES.format(rounds=rounds, images=images, ceiling=ceiling)
    publish("Speed of a training epoch", notes, rows, out)


def measure(case: Case, splits: Splits, rounds: int) -> Timing:
    """Let the contenders take turns."""
    timing = Timing({name: [] for name in CONTENDERS}, [])
    with ExitStack() as stack:
        players = {
            name: stack.enter_context(closing(contender(name, case, splits, 0, rounds + 1)))
            for name in CONTENDERS
        }
        for player in players.values():
            player.turn()
        for _ in range(rounds):
            timing.busy_cores.append(busy_cores())
            for name, player in players.items():
                timing.images_per_sec[name].append(player.turn()[0])
    return timing


def _rows(case: Case, timing: Timing, ceiling: Ceiling) -> Iterator[dict[str, Any]]:
    """A row for each way in which regsearch trains."""
    rates = {name: median(rate) for name, rate in timing.images_per_sec.items()}
    flops = 3 * forward_flops(case)  # backward computes two products for each of forward's
    for name, label in (("regsearch", "one"), (ALL_CORES, "a worker a core")):
        others = [other for other in CONTENDERS if other not in ("regsearch", ALL_CORES)]
        yield {
            "width": case.width,
            "augmentation": case.augmentation,
            "regsearch": label,
            **{f"over {other}": _spread(timing.ratios(name, other)) for other in others},
            "images/s": f"{rates[name]:,.0f}",
            "of the products' ceiling": f"{rates[name] * flops / ceiling.flops_per_sec:.0%}",
            "the others' images/s": " / ".join(f"{rates[other]:,.0f}" for other in others),
            "busy": f"{min(timing.busy_cores):.1f} to {max(timing.busy_cores):.1f}",
        }


def _spread(values: list[float]) -> str:
    return f"{median(values):.2f}x ({min(values):.2f} to {max(values):.2f})"
