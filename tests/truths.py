"""What is true about the studies of `surrogate`, and whether the code says so."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import median, quantiles

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from pipeline.ablation import Ablation, design, read_ablation
from pipeline.ablation_design import KIND as ABLATION
from pipeline.analysis.audit import Audit, audit
from pipeline.analysis.bounds import BoundsReport, examine_bounds
from pipeline.decision import points, verdict
from pipeline.finalists import KIND as FINALISTS
from pipeline.finalists import Finalist, Verdict
from pipeline.study.audit import would_prune
from pipeline.study.followup import FollowUp
from pipeline.study.ledger import Ledger
from pipeline.study.trials import overrides_of, value_of
from tests.surrogate import (
    HARMFUL,
    HELPFUL,
    IDLE,
    OPTIMUM,
    RUIN,
    SPACE,
    Net,
    World,
    known_ledger,
    train_all,
    truth,
    worth,
)

CLOSE = 0.01
"""Finalists this near to each other are equals for all practical purposes."""

MUCH = 0.15
"""This share of the trials that a pruner stops are too many to be lost from the best quarter."""


@dataclass(frozen=True)
class Story:
    """A study from its first trial to its ablation."""

    seed: int
    ledger: Ledger
    world: World
    verdict: Verdict
    ablation: Ablation

    @cached_property
    def trials(self) -> list[FrozenTrial]:
        return self.ledger.trials()

    @cached_property
    def bounds(self) -> BoundsReport:
        return examine_bounds(self.ledger.config, self.trials)

    def truth_of(self, finalist: Finalist) -> float:
        return truth(self.ledger.config, overrides_of(finalist.trial))

    def gains(self) -> Iterator[tuple[float, float, float]]:
        """Each finalist's gain over no regularization: said, half its interval, true."""
        plain = self.verdict.baseline("unregularized")
        assert plain is not None
        for finalist in self.verdict.finalists:
            if finalist is not plain and (gain := finalist.gain_over(plain)):
                yield (*gain, self.truth_of(finalist) - self.truth_of(plain))

    def worths(self) -> Iterator[tuple[float, float, float]]:
        """What each regularizer is worth, in the winner and alone: said, half, true."""
        for effect in self.ablation.effects:
            for gain in filter(None, (effect.within, effect.alone)):
                yield (*gain, worth(effect.path, float(effect.value)))


def told(folder: Path, seed: int, world: World, *assignments: str, text: str = SPACE) -> Story:
    """Run it all."""
    ledger = known_ledger(folder, seed, *assignments, text=text)
    train_all(ledger, world)
    finalists = FollowUp(ledger.config, ledger.store, FINALISTS)
    finalists.add(points(ledger))
    train_all(finalists, world)
    found = verdict(ledger, finalists)
    assert found is not None
    ledger.keep("winner", found.winner.trial.number)
    variants = FollowUp(ledger.config, ledger.store, ABLATION)
    variants.add(design(ledger).points(ledger.config.finalists.seeds))
    train_all(variants, world)
    said = read_ablation(ledger)
    assert said is not None
    return Story(seed, ledger, world, found, said)


def finalists_are_told(story: Story) -> bool:
    """The winner regularizes, gains over no regularization beyond doubt, and is one of the best:
    the truly best finalist is hardly better, or not told from it."""
    found = story.verdict
    best = max(found.finalists, key=story.truth_of)
    near = story.truth_of(best) - story.truth_of(found.winner) <= CLOSE or found.is_tied(best)
    gain, half, _ = next(story.gains())
    return not found.winner.baseline and gain > half and near


def gain_is_told(story: Story) -> bool:
    """The interval of the winner's gain over no regularization holds the true gain."""
    gain, half, true = next(story.gains())
    return abs(gain - true) <= half


def importance_is_told(story: Story) -> bool:
    """The helpful and the harmful one matter, the idle one does not and comes last."""
    found = {one.path: one.matters for one in story.bounds.importances["validation/accuracy"]}
    return found == {HELPFUL: True, HARMFUL: True, IDLE: False} and list(found)[-1] == IDLE


def bounds_are_told(story: Story) -> Mapping[str, bool]:
    """Each setting's bounds. Idle: it does not matter, and is searched no more. Harmful: a ruinous
    upper part is cut off, and nothing of the better half of what is not. Helpful: searched on, with
    its optimum well inside, and no edge where there is none."""
    report = story.bounds
    kinds = {(f.path, f.kind) for f in report.findings}
    harmful, helpful = (report.next.entries.get(path) for path in (HARMFUL, HELPFUL))
    _, high = harmful.edges() if harmful else (0, 0)
    low, top = helpful.edges() if helpful else (OPTIMUM, OPTIMUM)
    edges = {(HELPFUL, "edge_low"), (HELPFUL, "edge_high"), (HELPFUL, "does_not_matter")}
    return {
        IDLE: (IDLE, "does_not_matter") in kinds and IDLE in report.next.fixed,
        HARMFUL: (HARMFUL, "ruinous_high") in kinds and RUIN / 2 <= float(high) < 0.5,
        HELPFUL: not edges & kinds and float(low) < 0.9 * OPTIMUM and float(top) > 1.1 * OPTIMUM,
    }


def helpful_is_told(story: Story) -> bool:
    """The ablation says that the helpful one helps, in the winner and alone."""
    return _signs(story, HELPFUL) == [1, 1]


def idle_is_told(story: Story) -> bool:
    """The ablation calls the idle one of the winner neither helpful nor harmful."""
    return _signs(story, IDLE)[:1] in ([0], [])


def harmful_is_told(story: Story) -> bool:
    """The ablation says that the harmful one harms, in the winner and alone."""
    return _signs(story, HARMFUL) == [-1, -1]


def _signs(story: Story, path: str) -> list[int]:
    gains = [g for e in story.ablation.effects if e.path == path for g in (e.within, e.alone) if g]
    return [int(np.sign(gain)) if abs(gain) > half else 0 for gain, half in gains]


class Pruning:
    """What the pruning of a study has cost in truth: each trial that the pruner stopped is trained
    to its end here, as it would have been."""

    def __init__(self, ledger: Ledger, world: World) -> None:
        config, trials = ledger.config, ledger.trials()
        self.said: Audit = audit(trials, config)
        complete = [t for t in trials if t.state == TrialState.COMPLETE]
        self.others = [t for t in complete if would_prune(t) is None]
        audited = [t for t in complete if would_prune(t) is not None]
        stopped = [t for t in trials if t.state == TrialState.PRUNED]
        self.curves = {
            t.number: Net(world, config, t.number, overrides_of(t)).validation
            for t in (*audited, *stopped)
        }
        self.audited = [t.number for t in audited]
        values = list(map(value_of, self.others))
        self.middle, self.upper = median(values), quantiles(values, method="inclusive")[-1]

    def better_than(self, bar: float) -> list[int]:
        """The trials that the pruner wanted to stop and that end better than this."""
        return [number for number, curve in self.curves.items() if curve.max() > bar]

    @property
    def cost(self) -> float:
        """The share of those that would have been in the best quarter."""
        return len(self.better_than(self.upper)) / len(self.curves)

    def count_is_told(self) -> bool:
        """The false prunes are those of the audited that end better than the median, and the
        interval of their share holds the share among all that the pruner wanted to stop."""
        false = {prune.number for prune in self.said.false_prunes}
        share = len(self.better_than(self.middle)) / len(self.curves)
        low, high = self.said.interval or (0.0, 1.0)
        return false == {*self.better_than(self.middle)} & {*self.audited} and low <= share <= high

    def advice_is_told(self) -> bool:
        """A longer warm-up is advised where pruning cost much, and none where it cost one trial at
        most (between the two, either will do). With that warm-up, most of those that it cost would
        have been kept: those that were not audited, too."""
        advised = re.search(r"warmup_epochs: (\d+)", self.said.advice)
        if advised is None:
            return self.cost <= MUCH
        lost = self.better_than(self.upper)
        kept = [number for number in lost if self._keeps(number, int(advised[1]))]
        return len(lost) > 1 and len(kept) > len(lost) / 2

    def _keeps(self, number: int, warmup: int) -> bool:
        """Whether the median rule with this warm-up lets a trial run to its end."""
        so_far = np.maximum.accumulate(self.curves[number])
        bars = [
            median(t.intermediate_values[epoch] for t in self.others)
            for epoch in range(1, len(so_far) + 1)
        ]
        return bool((so_far >= bars)[warmup:].all())


def failing(stories: list[Story], is_told: Callable[[Story], bool]) -> list[int]:
    """The seeds of the studies about which the truth is not told."""
    return [story.seed for story in stories if not is_told(story)]
