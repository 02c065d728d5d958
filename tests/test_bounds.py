"""The bounds doctor, on studies whose truth is known."""

from __future__ import annotations

import math
from pathlib import Path

import optuna
import pytest
from optuna.trial import FrozenTrial

from pipeline.analysis.bounds import Advice, examine
from pipeline.config import RunConfig
from tests.spaces import tiny_config

TEXT = """# Of the lab.
study: {name: known, trials: 60}  # short
data: {kind: digits, train_images: 100}
model: {kind: vgg, width: 4, head_width: 8}
training: {epochs: 2, batch_size: 50, optimizer: {kind: adamw, learning_rate: 3e-3}}
search:
  # The best is far beyond.
  regularization.mixup_alpha: {type: float, low: 0.0, high: 0.4}  # mine
  training.optimizer.weight_decay: {type: float, low: 1e-5, high: 1e-1, log: true}
  regularization.label_smoothing: {type: float, low: 0.0, high: 0.2}
registry: {model_name: tiny-cnn}
"""
ALPHA, DECAY = "regularization.mixup_alpha", "training.optimizer.weight_decay"
SMOOTHING = "regularization.label_smoothing"


def surrogate(trial: optuna.Trial) -> float:
    """Better towards a large alpha, ruined by a decay in the upper 30 %; smoothing is idle."""
    decay = math.log10(trial.params[DECAY])
    return float(0.5 + 0.5 * trial.params[ALPHA] - (0.4 if decay > -2.2 else 0.0))


def trials_of(config: RunConfig, kind: str, seed: int, count: int = 60) -> list[FrozenTrial]:
    random = optuna.samplers.RandomSampler(seed)
    tpe = optuna.samplers.TPESampler(seed=seed)
    sampler = random if kind == "random" else tpe
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for _ in range(count):
        trial = study.ask()
        config.space.sample(trial)
        study.tell(trial, surrogate(trial))
    return study.trials


def is_right(advice: list[Advice]) -> bool:
    """The alpha is widened, the decay's upper part cut off, and smoothing called irrelevant."""
    found = {a.path: a for a in advice}
    alpha, decay = found[ALPHA].new, found[DECAY].new
    widened = getattr(alpha, "low", 1) <= 0.2 and getattr(alpha, "high", 0) == 0.6
    cut_off = 9e-4 <= getattr(decay, "high", 0) <= 1.7e-2
    return widened and cut_off and not found[SMOOTHING].importance.matters


def num_right(folder: Path, kind: str, seeds: range) -> int:
    config = tiny_config(folder, text=TEXT)
    return sum(is_right(examine(config, trials_of(config, kind, seed))) for seed in seeds)


@pytest.mark.parametrize("kind", ["random"])
def test_the_known_truth_is_found(tmp_path: Path, kind: str) -> None:
    assert num_right(tmp_path, kind, range(3)) == 3


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["random"])
def test_the_known_truth_is_found_in_19_of_20_studies(tmp_path: Path, kind: str) -> None:
    assert num_right(tmp_path, kind, range(20)) >= 19
