"""The pruning audit: some trials that the pruner would stop run on to their end, and are marked.

Only so is it known what pruning costs: a trial that was stopped never shows what became of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.seeding import stream_seed

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

WOULD_PRUNE = "regsearch.would_prune"
"""The epoch, from 1, at which the pruner first wanted to stop a trial that runs on all the same."""

SCHEDULE = ((0.25, 1), (0.5, 2))
"""(share of the budget, number): once so much of it is finished, so many trials are audited, or the
next that the pruner would stop is. A share of few trials might be none."""


def would_prune(trial: FrozenTrial) -> int | None:
    """The epoch at which an audited trial would have been stopped; None for any other trial."""
    epoch = trial.user_attrs.get(WOULD_PRUNE)
    return None if epoch is None else int(epoch)


def is_drawn(seed: int, number: int, fraction: float) -> bool:
    """Whether a trial is in the random share: it follows from the study's seed and its number."""
    return stream_seed(seed, "audit", number) / 2**63 < fraction


def is_due(num_audited: int, num_finished: int, budget: int) -> bool:
    """Whether the schedule asks for one more than `num_audited`, after so many finished trials."""
    return any(
        num_finished >= share * budget and num_audited < number for share, number in SCHEDULE
    )
