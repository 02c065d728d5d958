"""What each regularizer of the winner is worth: without it, alone, and in pairs.

All variants are trained again with the same fresh seeds and compared on the same selection images,
in pairs. The winner itself is trained again too: it was chosen for its seeds' luck among others.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.answers import Gain, Judged, gain_of, judged_by
from pipeline.config import RunConfig
from pipeline.config.run_config import off_values
from pipeline.config.search_space import same
from pipeline.decision import verdict
from pipeline.errors import UserError
from pipeline.finalists import KIND as FINALISTS
from pipeline.finalists import finalist_name
from pipeline.settings import Scalar
from pipeline.statistics import crossed_mean
from pipeline.study.baselines import STRENGTH, baselines
from pipeline.study.followup import SEED, FollowUp, Point, answers_of_trial, find_followup
from pipeline.study.ledger import Ledger
from pipeline.study.trials import overrides_of
from pipeline.words import short_name

KIND = "ablation"
AUGMENTATION = "augmentation."
NO_PART = "augmentation.randaugment_magnitude"  # without it is without RandAugment's operations

Scores = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Design:
    """The variants of a trial that say what its regularizers are worth.

    Args:
        name: of the trial: "trial 12", "recipe".
        config: the study's settings.
        overrides: what the trial changes in them.
    """

    name: str
    config: RunConfig
    overrides: Mapping[str, Scalar]

    @cached_property
    def values(self) -> dict[str, Any]:
        """The trial's settings, by dotted path."""
        return self.config.with_overrides(self.overrides).values()

    @cached_property
    def off(self) -> dict[str, Scalar]:
        """What switches off all of its regularizers: the augmentation by its strength."""
        return baselines(self.config.with_overrides(self.overrides)).get("unregularized", {})

    @cached_property
    def parts(self) -> dict[str, Scalar]:
        """The searched parts of the augmentation that are on, with the values that are off."""
        if STRENGTH not in self.off:
            return {}
        return {
            path: off
            for path, off in off_values().items()
            if path.startswith(AUGMENTATION)
            and path not in (STRENGTH, NO_PART)
            and path in self.config.search
            and not same(self.values.get(path), off)
        }

    @property
    def regularizers(self) -> tuple[str, ...]:
        """What is taken away in turn, by dotted path; the augmentation by its strength."""
        return (*self.off, *self.parts)

    def without(self, path: str) -> dict[str, Scalar]:
        """The trial without one of its regularizers."""
        return {**self.overrides, path: {**self.off, **self.parts}[path]}

    def alone(self, *paths: str) -> dict[str, Scalar]:
        """Nothing of its regularizers but these."""
        kept = {path: self.values[path] for path in paths}
        changed = {**self.overrides, **self.off}
        if STRENGTH not in paths and any(path in self.parts for path in paths):
            changed |= {p: o for p, o in off_values().items() if p.startswith(AUGMENTATION)}
            kept |= {p: self.values[p] for p in (STRENGTH, NO_PART)}
        return changed | kept

    @cached_property
    def _named(self) -> dict[str, str]:
        variants = [(self.name, dict(self.overrides)), ("nothing", self.alone())]
        variants += [(f"without {short_name(p)}", self.without(p)) for p in self.regularizers]
        named: dict[str, str] = {}
        for words, overrides in variants:
            group = words if words == self.name else f"{self.name}, {words}"
            named.setdefault(self._key(overrides), group)
        return named

    def _key(self, overrides: Mapping[str, Scalar]) -> str:
        return json.dumps(self.config.with_overrides(overrides).values())

    def group(self, overrides: Mapping[str, Scalar], *paths: str) -> str:
        """What a variant is called; variants that are the same have one name, and are trained once:
        of two regularizers, one alone is the trial without the other. A pair's order is no part."""
        alone = f"{self.name}, only {' and '.join(short_name(path) for path in sorted(paths))}"
        return self._named.get(self._key(overrides), alone)

    def points(self, seeds: int, pairs: Iterable[tuple[str, str]] = ()) -> list[Point]:
        """The trainings: the trial, nothing, without each, only each, only both of each pair."""
        variants = {self.name: dict(self.overrides)}
        for overrides, paths in self._variants(pairs):
            variants.setdefault(self.group(overrides, *paths), overrides)
        return [
            Point(group, f"{KIND}/{seed}", overrides)
            for group, overrides in variants.items()
            for seed in range(1, seeds + 1)
        ]

    def _variants(
        self, pairs: Iterable[tuple[str, str]]
    ) -> list[tuple[dict[str, Scalar], tuple[str, ...]]]:
        singles = [(path,) for path in self.regularizers]
        return [
            (self.alone(), ()),
            *((self.without(path), (path,)) for path in self.regularizers),
            *((self.alone(*paths), paths) for paths in [*singles, *pairs]),
        ]


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
        return _pairs([effect.path for effect in self.effects])[:count]

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


def design(ledger: Ledger) -> Design:
    """Of the winner; of the best finalist that regularizes, where the winner does not.

    Raises:
        UserError: the study has no winner yet, or no trial that regularizes.
    """
    winner = ledger.trials()[int(ledger.recorded("winner"))]
    finalists = find_followup(ledger, FINALISTS)
    decided = None if finalists is None else verdict(ledger, finalists)
    ranked = (
        [winner, *ledger.ranked()]
        if decided is None
        else [finalist.trial for finalist in decided.finalists]
    )
    for trial in ranked:
        found = Design(finalist_name(trial), ledger.config, overrides_of(trial))
        if found.regularizers:
            return found
    raise UserError(
        f"no finalist of {ledger.config.study.name!r} regularizes",
        where="STUDY",
        rule="an ablation takes regularizers away, one by one",
        cure="search other ranges, or take it that regularization does not help here",
    )


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
    pairs = _pairs([e.path for e in effects])
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


def _pairs(paths: Sequence[str]) -> list[tuple[str, str]]:
    """The pairs of regularizers, those first whose weaker one is strongest. The augmentation's
    strength is no pair with one of its parts: without it there is no part.

    Args:
        paths: the strongest first.
    """
    ordered = sorted(combinations(range(len(paths)), 2), key=lambda pair: pair[::-1])
    named = ((paths[first], paths[second]) for first, second in ordered)
    return [
        pair
        for pair in named
        if STRENGTH not in pair or not all(path.startswith(AUGMENTATION) for path in pair)
    ]


def _scores(plan: Design, followup: FollowUp) -> tuple[dict[str, dict[str, Scores]], list[str]]:
    """Of each variant, by seed, (images,); and what is missing."""
    pairs = _pairs(plan.regularizers)
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
