"""A formula in place of training: studies on a real store about which the whole truth is known.

Everything else is the real thing: the ledger's claims, reports and verdicts, the sampler, the
pruner, follow-ups, and what is kept of each net. Sizes are those of small CNNs on small pictures:

- without regularization 80 % of the images are told right, in the limit of many images and seeds;
- dropout helps: best at 0.4, where it is worth 4 points; 0.7 is worth 1.75;
- label smoothing harms: 2 points at 0.25, and from there on it ruins the training: 8 points at 0.5;
- augmentation does nothing at any strength.

Effects add up. A seed moves a net by 0.3 points (standard deviation); some of that is common to
all nets of a seed. An image is easy or hard for every net alike for the most part (`COMMON`): two
nets of the same settings, or one net in two epochs, differ in a twentieth to a tenth of 2,000
images.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

from pipeline.answers import Answers
from pipeline.config import RunConfig
from pipeline.seeding import TrialSeeds
from pipeline.settings import Scalar
from pipeline.study.claim import Claim
from pipeline.study.followup import ANSWERS, FollowUp
from pipeline.study.ledger import Ledger
from pipeline.study.storage import open_storage
from pipeline.study.store import SCORED
from tests.spaces import tiny_config

HELPFUL, HARMFUL, IDLE = (
    "regularization.dropout",
    "regularization.label_smoothing",
    "augmentation.strength",
)
OPTIMUM, WORTH = 0.4, 0.04
RUIN = 0.25
PLAIN = 0.80
SEED_STD, SHARED_BY_SEED = 0.003, 0.3
NUM_IMAGES, COMMON = 2_000, 0.95
START = 0.4
"""How far below its end a net is before its first epoch."""

SPACE = """
study:
  name: known
  trials: 60
  sampler: {kind: tpe, startup_trials: 16}
  pruner: {kind: median}
data: {kind: digits, train_images: 100}
model: {kind: vgg, width: 4, head_width: 8}
training: {epochs: 20, batch_size: 50, optimizer: {kind: adamw, learning_rate: 3e-3}}
regularization: {dropout: 0.2, label_smoothing: 0.1}
augmentation: {strength: 0.5}
search:
  regularization.dropout: {type: float, low: 0.0, high: 0.7}
  regularization.label_smoothing: {type: float, low: 0.0, high: 0.5}
  augmentation.strength: {type: float, low: 0.0, high: 1.0}
registry: {model_name: known}
"""

Floats = npt.NDArray[np.float64]


def known_ledger(folder: Path, seed: int, *assignments: str, text: str = SPACE) -> Ledger:
    """A study that nobody has begun."""
    config = tiny_config(folder, f"study.seed={seed}", *assignments, text=text)
    return Ledger(config, open_storage(f"sqlite:///{folder}/known-{seed}.db"))


def worth(path: str, value: float) -> float:
    """What one setting adds to the share of images that are told right."""
    if path == HELPFUL:
        return WORTH * (1 - ((value - OPTIMUM) / OPTIMUM) ** 2)
    if path == HARMFUL:
        return -0.02 * min(value, RUIN) / RUIN - 0.06 * max(0.0, value - RUIN) / (0.5 - RUIN)
    return 0.0


def truth(config: RunConfig, overrides: Mapping[str, Scalar]) -> float:
    """The share of all images that nets of these settings tell right, on the average of seeds."""
    values = config.values() | dict(overrides)
    return PLAIN + sum(worth(path, float(values[path] or 0)) for path in (HELPFUL, HARMFUL))


@dataclass(frozen=True)
class World:
    """How fast nets learn.

    Args:
        slow_epochs: by how many epochs dropout at the end of its range makes a net learn more
            slowly (its time constant is 2.5 epochs without dropout). At 0 curves are fair: the
            order in the middle of the training is the order at its end.
    """

    slow_epochs: float = 0.0

    def curve(self, config: RunConfig, overrides: Mapping[str, Scalar]) -> Floats:
        """(epochs,), the truth about the net after each epoch."""
        epochs = config.training.epochs
        dropout = float((config.values() | dict(overrides))[HELPFUL] or 0)
        decay = np.exp(-np.arange(1, epochs + 1) / (2.5 + self.slow_epochs * dropout / 0.7))
        return np.asarray(truth(config, overrides) - START * (decay - decay[-1]))


class Net:
    """A net that the surrogate has trained: what it says of any images after each epoch."""

    def __init__(
        self, world: World, config: RunConfig, seed: int | str, overrides: Mapping[str, Scalar]
    ) -> None:
        seeds = TrialSeeds.of(config.study.seed, seed)
        own = np.random.default_rng([seeds.init, *map(ord, repr(sorted(overrides.items())))])
        luck = math.sqrt(SHARED_BY_SEED) * np.random.default_rng(seeds.order).normal()
        luck += math.sqrt(1 - SHARED_BY_SEED) * own.normal()
        self.level = ndtri(world.curve(config, overrides) + SEED_STD * luck)
        self.own, self.study_seed = own, config.study.seed

    def correct(self, split: str, epoch: int, quirks: Floats) -> npt.NDArray[np.bool_]:
        """(N,), whether it tells each image of a split right after an epoch, from 1."""
        ease = _ease(self.study_seed, split)
        return (self.level[epoch - 1] + ease + math.sqrt(1 - COMMON) * quirks > 0).astype(np.bool_)

    def quirks(self) -> Floats:
        """(N,), what this net alone finds easy."""
        return self.own.normal(size=NUM_IMAGES)

    @cached_property
    def validation(self) -> Floats:
        """(epochs,), the validation accuracy: half of a net's quirks last, half change."""
        lasting, half = self.quirks(), math.sqrt(0.5)
        return np.array(
            [
                self.correct("validation", epoch, half * (lasting + self.quirks())).mean()
                for epoch in range(1, len(self.level) + 1)
            ]
        )


def _ease(study_seed: int, split: str) -> Floats:
    """(N,), how easy each image of a split is for every net."""
    chance = np.random.default_rng([study_seed, *map(ord, split)])
    return math.sqrt(COMMON) * chance.normal(size=NUM_IMAGES)


def train_all(ledger: Ledger, world: World) -> None:
    """What a worker does, from claim to claim, until none is left."""
    while claim := ledger.claim():
        _train(ledger, claim, Net(world, ledger.config, claim.seed, claim.overrides))


def _train(ledger: Ledger, claim: Claim, net: Net) -> None:
    """As `TrialRunner` does it: every epoch is reported, the best one counts."""
    values = [float(value) for value in net.validation]
    for epoch, value in enumerate(values, start=1):
        if ledger.report(claim, epoch, value):
            ledger.prune(claim, {SCORED: {"epoch": epoch, "validation/accuracy": value}})
            return
    best = int(np.argmax(values)) + 1
    attrs: dict[str, Any] = {SCORED: {"epoch": best, "validation/accuracy": values[best - 1]}}
    if isinstance(ledger, FollowUp):  # the search looks at no selection image
        correct = net.correct("selection", best, net.quirks())
        attrs[ANSWERS] = Answers(correct, correct.astype(np.float32)).to_json()
    ledger.complete(claim, values[best - 1], attrs)
