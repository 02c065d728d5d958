"""A trial that this process has taken, for as long as it may keep it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pipeline.settings import Scalar
from pipeline.study.baselines import Baseline

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial


@dataclass(frozen=True)
class Claim:
    """A trial that this process has taken.

    Args:
        trial: Optuna's handle on it.
        owner: the token under which it is held.
        attempt: which one this is, from 1.
        name: what people shall read.
        seed: names the trial's streams of chance: its number, unless it shares another's.
        overrides: what it changes in the file's settings.
        params: what it has for every searched setting, changed or not.
        baseline: which baseline it is, if it is one.
        tags: what else MLflow shows of it.
        so_far: its curve and attributes as the store has them, for the pruner. What this process
            reports is added; nobody else writes to it.
        reported_epochs: how many epochs the earlier attempts have reported.
        last_epoch: the epoch after which it ends, on the schedule of all; None for its end.
    """

    trial: optuna.Trial
    owner: str
    attempt: int
    name: str
    seed: int | str
    overrides: Mapping[str, Scalar]
    params: Mapping[str, Scalar | None]
    so_far: FrozenTrial
    baseline: Baseline | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    reported_epochs: int = 0
    last_epoch: int | None = None

    @property
    def number(self) -> int:
        return self.trial.number
