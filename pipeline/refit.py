"""The refit: the winner's settings trained once more, on the training and validation images."""

from __future__ import annotations

from statistics import median_high

from optuna.trial import FrozenTrial

from pipeline.finalists import Finalist, best_training
from pipeline.study.followup import SEED, FollowUp, Point
from pipeline.study.ledger import Ledger
from pipeline.study.store import SCORED
from pipeline.study.trials import overrides_of


def chosen_epoch(finalist: Finalist) -> int:
    """For how many epochs it is refit: the median of its trainings' best epochs by validation, of
    two in the middle the later. The schedule is that of all epochs, and stops there, as it did for
    the weights that validation liked best."""
    return median_high(int(t.user_attrs[SCORED]["epoch"]) for t in finalist.trainings)


def refit_points(ledger: Ledger, finalist: Finalist) -> list[Point]:
    """With the seeds of the nets that are registered without a refit: all of them for an ensemble,
    else the one that validation likes best."""
    epoch = chosen_epoch(finalist)
    if ledger.config.finalists.champion == "ensemble":
        trainings = finalist.trainings
    else:
        trainings = (best_training(finalist, ledger.config.study.metric),)
    group, overrides = _group(finalist, epoch), overrides_of(finalist.trial)
    return [Point(group, str(t.user_attrs[SEED]), overrides, epoch) for t in trainings]


def refit_trainings(
    ledger: Ledger, finalist: Finalist, followup: FollowUp
) -> tuple[FrozenTrial, ...]:
    """The complete trainings of these points, by seed; empty while one of them is missing."""
    wanted = {point.seed for point in refit_points(ledger, finalist)}
    group = _group(finalist, chosen_epoch(finalist))
    complete = followup.complete_in([group])[group]
    found = tuple(t for t in complete if t.user_attrs[SEED] in wanted)
    return found if len(found) == len(wanted) else ()


def _group(finalist: Finalist, epoch: int) -> str:
    """The length is part of the name: another one is another training."""
    return f"refit of {finalist.name} for {epoch} epochs"
