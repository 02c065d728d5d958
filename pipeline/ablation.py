"""What each regularizer of the winner is worth: without it, alone, and in pairs.

All variants are trained again with the same fresh seeds and compared on the same selection images,
in pairs. The winner itself is trained again too: it was chosen for its seeds' luck among others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.ablation_design import KIND, Design, design, pairs_of
from pipeline.answers import Gain, Judged, gain_of, judged_by
from pipeline.settings import Scalar
from pipeline.statistics import crossed_mean
from pipeline.study.followup import SEED, FollowUp, answers_of_trial, find_followup
from pipeline.study.ledger import Ledger

Scores = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Effect:
    """What a regularizer is worth; positive is better.

    Args:
        path, value: the setting, and what the trial has.
        within: the trial against itself without it. None while trainings are missing.
        alone: it alone against nothing.
    """

    path: str
    value: Scalar
    within: Gain | None
    alone: Gain | None

    @property
    def strength(self) -> float:
        """The larger of the two, without its sign."""
        return max((abs(gain[0]) for gain in (self.within, self.alone) if gain), default=0.0)


@dataclass(frozen=True)
class Interaction:
    """Two regularizers: both, each alone, and none of them, with no other one.

    Args:
        both, first_alone, second_alone: against nothing.
        interaction: by how much both are worth more than the sum of each alone.
    """

    first: str
    second: str
    both: Gain
    first_alone: Gain
    second_alone: Gain
    interaction: Gain

    @property
    def words(self) -> str:
        """Whether one does the other's work: only of two that help alone can that be said."""
        excess, half = self.interaction
        if abs(excess) <= half:
            return "add up, as far as can be told"
        if excess < 0 and all(g > margin for g, margin in (self.first_alone, self.second_alone)):
            return "substitute for each other"
        if self.first_alone[0] + self.second_alone[0] > 0:
            return f"are worth {'more' if excess > 0 else 'less'} together than their sum"
        return f"cost {'less' if excess > 0 else 'more'} together than their sum"


@dataclass(frozen=True)
class Ablation:
    """What the trainings of an ablation say.

    Args:
        reference: the trial.
        total: all of its regularizers together.
        effects: the strongest first.
        notes: what is to be known of it, a line each.
    """

    reference: str
    judged: Judged
    num_seeds: int
    num_images: int
    total: Gain | None
    effects: tuple[Effect, ...]
    interactions: tuple[Interaction, ...] = ()
    notes: tuple[str, ...] = ()

    def strongest_pairs(self, count: int) -> list[tuple[str, str]]:
        """So many pairs of regularizers whose weaker one is strongest."""
        return pairs_of([effect.path for effect in self.effects])[:count]

    def to_json(self) -> dict[str, Any]:
        """A table for MLflow; a gain is [difference, half the width of its interval]."""
        return {
            "reference": self.reference,
            "judged_by": f"selection/{self.judged}",
            "num_seeds": self.num_seeds,
            "num_images": self.num_images,
            "all_regularizers": self.total,
            "regularizers": [vars(effect) for effect in self.effects],
            "interactions": [{**vars(i), "words": i.words} for i in self.interactions],
            "notes": list(self.notes),
        }

    def metrics(self) -> dict[str, float]:
        """The same as metrics of MLflow."""
        found = {}
        for effect in self.effects:
            for name, gain in (("within", effect.within), ("alone", effect.alone)):
                if gain is not None:
                    found[f"worth/{effect.path}/{name}"] = gain[0]
                    found[f"worth/{effect.path}/{name}_half_width"] = gain[1]
        return found


def read_ablation(ledger: Ledger) -> Ablation | None:
    """What the trainings say that there are; None where no ablation was begun."""
    followup = find_followup(ledger, KIND)
    return None if followup is None else ablation(design(ledger), followup)


def ablation(plan: Design, followup: FollowUp) -> Ablation:
    """What a follow-up's trainings say of the variants."""
    judged = judged_by(plan.config.study.metric)
    scores, missing = _scores(plan, followup)

    def gain(*terms: tuple[float, dict[str, Scalar], tuple[str, ...]]) -> Gain | None:
        """The mean of a sum of variants with these factors; None while one is missing."""
        groups = [plan.group(overrides, *paths) for _, overrides, paths in terms]
        shared = sorted(set.intersection(*(set(scores.get(group, {})) for group in groups)))
        if not shared:
            return None
        factors = [factor for factor, _, _ in terms]
        total = sum(
            factor * np.stack([scores[group][seed] for seed in shared])
            for factor, group in zip(factors, groups, strict=True)
        )
        return gain_of(crossed_mean(np.asarray(total)), judged)

    winner, nothing = (dict(plan.overrides), ()), (plan.alone(), ())

    def effect(path: str) -> Effect:
        within = gain((1, *winner), (-1, plan.without(path), (path,)))
        alone = gain((1, plan.alone(path), (path,)), (-1, *nothing))
        return Effect(path, plan.values[path], within, alone)

    def interaction(first: str, second: str) -> Interaction | None:
        both = plan.alone(first, second), (first, second)
        one, other = (plan.alone(first), (first,)), (plan.alone(second), (second,))
        found = (
            gain((1, *both), (-1, *nothing)),
            gain((1, *one), (-1, *nothing)),
            gain((1, *other), (-1, *nothing)),
            gain((1, *both), (-1, *one), (-1, *other), (1, *nothing)),
        )
        known = [each for each in found if each is not None]
        return Interaction(first, second, *known) if len(known) == len(found) else None

    effects = sorted(map(effect, plan.regularizers), key=lambda e: -e.strength)
    pairs = pairs_of([e.path for e in effects])
    num_images = next((len(s) for of in scores.values() for s in of.values()), 0)
    return Ablation(
        plan.name,
        judged,
        _num_seeds(plan, scores),
        num_images,
        gain((1, *winner), (-1, *nothing)),
        tuple(effects),
        tuple(found for pair in pairs if (found := interaction(*pair))),
        tuple(missing),
    )


def _scores(plan: Design, followup: FollowUp) -> tuple[dict[str, dict[str, Scores]], list[str]]:
    """Of each variant, by seed, (images,); and what is missing."""
    pairs = pairs_of(plan.regularizers)
    groups = list(dict.fromkeys(point.group for point in plan.points(1, pairs)))
    singles = {point.group for point in plan.points(1)}
    scores = {
        group: {str(t.user_attrs[SEED]): _of_images(t) for t in trainings}
        for group, trainings in followup.complete_in(groups).items()
        if trainings
    }
    notes = [f"not trained yet: {group}" for group in groups if group in singles - set(scores)]
    if len({frozenset(of) for of in scores.values()}) > 1:
        notes.append("some variants have more seeds; a comparison counts those that all in it have")
    return scores, notes


def _num_seeds(plan: Design, scores: Mapping[str, Mapping[str, Scores]]) -> int:
    """That all variants with one regularizer more or less share."""
    singles = {point.group for point in plan.points(1)}
    found = [set(scores[group]) for group in singles if group in scores]
    return len(set.intersection(*found)) if found else 0


def _of_images(training: Any) -> Scores:
    return answers_of_trial(training).scores.astype(np.float64)
