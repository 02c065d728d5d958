"""What may be registered: trained nets, on their own or several that answer as one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from optuna.trial import FrozenTrial

from pipeline.answers import Answers, Gain, Judged, gain_of
from pipeline.config import RunConfig
from pipeline.finalists import Finalist, best_training
from pipeline.statistics import crossed_mean
from pipeline.study.followup import FollowUp, answers_of_trial
from pipeline.study.trials import overrides_of
from pipeline.weights import WeightStore

if TYPE_CHECKING:
    from torch import nn

    from pipeline.training.data import DeviceData

NOT_KEPT = (
    "the weights of {} were not kept: when it ended it was not among the best, by the "
    "constraints of then, or they were removed; finalists (`finalists.count`) are trained again"
)


class NotKeptError(LookupError):
    """The weights of a net are not there, and what can be done about it."""


@dataclass(frozen=True, eq=False)
class Nets:
    """One net, or several of the same settings whose probabilities are averaged.

    Args:
        name: of the finalist whose settings they have.
        trials: that trained them; the model is logged to the first one's run in MLflow.
        followup: whose trials these are; None for the search's own.
        answers: what they say, as one, of the selection images; None where it is not known.
        judged: what they are compared by.
    """

    name: str
    trials: tuple[FrozenTrial, ...]
    followup: FollowUp | None
    answers: Answers | None
    judged: Judged

    @property
    def selection(self) -> tuple[float, float] | None:
        """Their score on the selection images, and half the width of its 95 % interval, over
        images alone."""
        return crossed_mean(self.answers.scores[None].astype(float)) if self.answers else None

    def gain_over(self, scores: npt.NDArray[np.floating[Any]]) -> Gain | None:
        """By how much they are better than other scores (N,) of the same images, in pairs, and half
        the width of the 95 % interval, over images alone; None where they were not scored."""
        if self.answers is None:
            return None
        difference = self.answers.scores.astype(float) - scores
        return gain_of(crossed_mean(difference[None]), self.judged)


def nets_of(finalist: Finalist, followup: FollowUp | None, metric: str) -> Nets:
    """The net that is registered for a finalist: the search's own, or of its trainings the one
    that validation likes best."""
    if followup is None:
        answers = finalist.answers[0] if finalist.answers else None
        return Nets(finalist.name, (finalist.trial,), None, answers, finalist.judged)
    best = best_training(finalist, metric)
    return Nets(finalist.name, (best,), followup, answers_of_trial(best), finalist.judged)


def all_nets_of(finalist: Finalist, followup: FollowUp, metric: str) -> Nets:
    """All of its trainings' nets, the one that validation likes best first; not yet scored."""
    best = best_training(finalist, metric)
    others = [t for t in finalist.trainings if t.number != best.number]
    return Nets(finalist.name, (best, *others), followup, None, finalist.judged)


def load_nets(
    nets: Nets, config: RunConfig, data: DeviceData, weights: WeightStore
) -> tuple[RunConfig, nn.Module]:
    """Their settings, and one module that maps normalized images (N, C, H, W) to logits (N, K).

    Args:
        config: the study's settings.
        weights: the store that has their weights.

    Raises:
        NotKeptError: weights were not kept.
        DamagedFileError: weights are not, or no longer, what was saved.
    """
    from pipeline.models.ensemble import Ensemble
    from pipeline.trainers import build_seeded

    changed = config.with_overrides(overrides_of(nets.trials[0]))
    modules = []
    for trial in nets.trials:
        module = build_seeded(changed, data)
        try:
            module.load_state_dict(weights.load(trial.number))
        except FileNotFoundError:
            raise NotKeptError(NOT_KEPT.format(nets.name)) from None
        modules.append(module.eval())
    return changed, modules[0] if len(modules) == 1 else Ensemble(modules)
