"""Studies on a real store whose objective is a formula, so that the truth about them is known."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial

from pipeline.config import RunConfig
from pipeline.settings import Scalar
from pipeline.study.ledger import Ledger
from pipeline.study.record import remember, remember_settings
from pipeline.study.samplers import build_sampler
from pipeline.study.storage import open_storage
from tests.spaces import TINY, tiny_space

KNOWN = TINY.replace(
    "pruner: {kind: none}", "sampler: {kind: tpe}\n  pruner: {kind: none}"
).replace(
    TINY[TINY.index("search:") : TINY.index("registry:")],
    """search:                    # what is searched
  # The optimum of dropout lies at 0.5, beyond its range.
  regularization.dropout:          {type: float, low: 0.0, high: 0.3}   # dropout's own remark
  # Above 1e-2 weight decay ruins the training.
  training.optimizer.weight_decay: {type: float, low: 1e-5, high: 10.0, log: true}
  # Label smoothing does nothing.
  regularization.label_smoothing:  {type: float, low: 0.0, high: 0.2}

""",
)
"""An optimum beyond an edge, a ruinous half, and a setting without effect."""


def accuracy(params: Mapping[str, Scalar], chance: random.Random) -> float:
    """Best at a dropout of 0.5; 0.3 lower above a weight decay of 1e-2; noise of half a point."""
    value = 0.9 - (0.5 - float(params["regularization.dropout"])) ** 2
    decay = math.log10(max(float(params["training.optimizer.weight_decay"]), 1e-9))
    return value - (0.3 + 0.05 * (decay + 2) if decay > -2 else 0.0) + chance.gauss(0, 0.005)


def run_study(folder: Path, *assignments: str, text: str = KNOWN) -> Ledger:
    """A study that has run to its end."""
    space = tiny_space(folder, *assignments, text=text)
    ledger = Ledger(space.config, open_storage(f"sqlite:///{folder}/optuna.db"))
    remember_settings(ledger)
    remember(ledger, space, {})
    chance = random.Random(space.config.study.seed)
    while claim := ledger.claim():
        ledger.complete(claim, accuracy(claim.params, chance))
    return ledger


def drawn_study(config: RunConfig, seed: int, num_trials: int = 60) -> list[FrozenTrial]:
    """The same without store and baselines: trials that the config's sampler has drawn."""
    study = optuna.create_study(
        direction="maximize", sampler=build_sampler(config.study.sampler, seed)
    )
    chance = random.Random(seed)
    study.optimize(lambda t: accuracy(config.space.sample(t), chance), n_trials=num_trials)
    return study.get_trials(deepcopy=False)
