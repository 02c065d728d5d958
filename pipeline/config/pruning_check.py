"""A pruner that could never stop a trial."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.config.problems import Problem
from pipeline.config.run_config import RunConfig


def check_pruning(config: RunConfig) -> Iterator[Problem]:
    """Warm-up epochs that the file itself asks for, and that no trial outlasts.

    It is asked of space files alone: a study that is there already goes on.
    """
    pruner, epochs = config.study.pruner, config.training.epochs
    warmup = getattr(pruner, "warmup_epochs", 0)
    if "training.epochs" in config.search:
        epochs = max(int(edge) for edge in config.search["training.epochs"].edges())
    if "warmup_epochs" in pruner.model_fields_set and warmup >= epochs:
        yield Problem(
            ("study", "pruner", "warmup_epochs"),
            f"`study.pruner.warmup_epochs` is {warmup}, but `training.epochs` is {epochs}",
            rule="no trial is pruned in the warm-up, so it should be shorter than the training",
            cure="lower `study.pruner.warmup_epochs`, or write `pruner: {kind: none}`",
        )
