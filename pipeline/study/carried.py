"""Trials that another study has finished and that this one began with: see `warm_start`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

CARRIED_FROM = "regsearch.carried_from"
"""User attribute of a trial that was carried over: the study and the number it was there, `old/12`.
Such a trial has no run in MLflow, no weights and no part in the budget."""


def is_carried(trial: FrozenTrial) -> bool:
    """Whether a trial comes from another study."""
    return CARRIED_FROM in trial.user_attrs
