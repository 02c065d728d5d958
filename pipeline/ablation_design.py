"""Which variants of a trial say what its regularizers are worth."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any

from optuna.trial import FrozenTrial

from pipeline.config import RunConfig
from pipeline.config.run_config import off_values
from pipeline.config.search_space import same
from pipeline.decision import verdict
from pipeline.errors import UserError
from pipeline.finalists import KIND as FINALISTS
from pipeline.finalists import finalist_name
from pipeline.settings import Scalar
from pipeline.study.baselines import STRENGTH, baselines
from pipeline.study.followup import Point, find_followup
from pipeline.study.ledger import Ledger
from pipeline.study.trials import overrides_of
from pipeline.words import short_name

KIND = "ablation"
AUGMENTATION = "augmentation."
NO_PART = "augmentation.randaugment_magnitude"  # without it is without RandAugment's operations


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


def first_that_regularizes(config: RunConfig, trials: Sequence[FrozenTrial]) -> Design | None:
    """Of the first of these trials of a study that has a regularizer to take away."""
    for trial in trials:
        found = Design(finalist_name(trial), config, overrides_of(trial))
        if found.regularizers:
            return found
    return None


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
    found = first_that_regularizes(ledger.config, ranked)
    if found is not None:
        return found
    raise UserError(
        f"no finalist of {ledger.config.study.name!r} regularizes",
        where="STUDY",
        rule="an ablation takes regularizers away, one by one",
        cure="search other ranges, or take it that regularization does not help here",
    )


def pairs_of(paths: Sequence[str]) -> list[tuple[str, str]]:
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
