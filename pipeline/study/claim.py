"""A trial that this process has taken, for as long as it may keep it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.settings import Scalar
from pipeline.study.baselines import Baseline

if TYPE_CHECKING:
    import optuna


@dataclass(frozen=True)
class Claim:
    """A trial that this process has taken.

    Args:
        trial: Optuna's handle on it.
        owner: the token under which it is held.
        attempt: which one this is, from 1.
        overrides: what it changes in the file's settings.
        params: what it has for every searched setting, changed or not.
        baseline: which baseline it is, if it is one.
        reported_epochs: how many epochs the earlier attempts have reported.
    """

    trial: optuna.Trial
    owner: str
    attempt: int
    overrides: Mapping[str, Scalar]
    params: Mapping[str, Scalar | None]
    baseline: Baseline | None
    reported_epochs: int = 0

    @property
    def number(self) -> int:
        return self.trial.number

    @property
    def name(self) -> str:
        return trial_name(self.number, self.baseline)


def trial_name(number: int, baseline: str | None) -> str:
    """`trial 7`, or `trial 0 (unregularized)`."""
    return f"trial {number}" + (f" ({baseline})" if baseline else "")
