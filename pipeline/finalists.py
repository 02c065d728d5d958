"""The finalists: the best trials and the baselines, trained again with fresh seeds, and compared on
the selection images, which the search never saw.

A search chooses by its validation score, and so finds the luckiest trial as much as the best one.
What it says of itself is here set against what fresh seeds say on fresh images, in pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import Any

import numpy as np
import numpy.typing as npt
from optuna.trial import FrozenTrial

from pipeline.answers import Answers, Gain, Judged, gain_of, higher_is_better
from pipeline.statistics import crossed_mean, paired_seeds
from pipeline.study.constraints import is_feasible
from pipeline.study.front import on_selection, turned
from pipeline.study.store import SCORED
from pipeline.study.trials import BASELINE
from pipeline.training.metrics import is_better

KIND = "finalists"
CONFIDENCE = 0.95


@dataclass(frozen=True, eq=False)
class Finalist:
    """A trial of the search, and what it is worth on the selection images.

    Args:
        name: "trial 12", or the baseline that it is.
        trial: as the search has it.
        trainings: of its settings with fresh seeds, by seed; empty where the search's own weights
            were scored.
        answers: of each of its nets on the selection images; empty without such images.
        judged: what finalists are compared by.
    """

    name: str
    trial: FrozenTrial
    trainings: tuple[FrozenTrial, ...]
    answers: tuple[Answers, ...]
    judged: Judged

    @property
    def baseline(self) -> str:
        """Which baseline it is; empty for a trial of the search."""
        return str(self.trial.user_attrs.get(BASELINE, ""))

    @property
    def alias(self) -> str:
        """What it is called in the registry: `recipe`, `trial-12`."""
        return self.name.replace(" ", "-")

    @cached_property
    def scores(self) -> npt.NDArray[np.float64]:
        """(seeds, images), as `Answers.scores`."""
        return np.stack([answer.scores.astype(np.float64) for answer in self.answers])

    @cached_property
    def selection(self) -> tuple[float, float] | None:
        """The mean over seeds and images, and half the width of its 95 % interval."""
        return crossed_mean(self.scores) if self.answers else None

    @property
    def is_feasible(self) -> bool:
        """Whether the search's trial keeps the constraints: if not, it can't win."""
        return is_feasible(self.trial)

    def on_selection(self, metric: str) -> list[float]:
        """A metric of the search on the selection images, of each of its trainings."""
        return [on_selection(t.user_attrs[SCORED], metric) for t in self.trainings]

    @property
    def search_score(self) -> float | None:
        """The same score of the search's trial on the validation images, at its best epoch."""
        scored = self.trial.user_attrs.get(SCORED, {})
        value = scored.get(f"validation/{self.judged}")
        return None if value is None else float(value)

    @property
    def optimism(self) -> float | None:
        """By how much the search's score flatters it: positive where selection is worse."""
        if self.selection is None or self.search_score is None:
            return None
        gap = self.search_score - self.selection[0]
        return gap if higher_is_better(self.judged) else -gap

    def gain_over(self, other: Finalist, confidence: float = CONFIDENCE) -> Gain | None:
        """By how much it is better than another, and half the width of the interval: paired,
        seed by seed and image by image. None where one of the two was not scored."""
        if not self.answers or not other.answers:
            return None
        return gain_of(paired_seeds(self.scores, other.scores, confidence), self.judged)


@dataclass(frozen=True, eq=False)
class Verdict:
    """Which finalist won.

    Args:
        finalists: the best mean on the selection images first; without such images, or fresh seeds,
            the search's champion first.
        retrained: whether they were trained again with fresh seeds.
        notes: what is to be known of it, a line each.
    """

    finalists: tuple[Finalist, ...]
    judged: Judged
    retrained: bool
    notes: tuple[str, ...] = ()

    @property
    def winner(self) -> Finalist:
        return self.finalists[0]

    def gain(self, over: Finalist, of: Finalist | None = None) -> Gain | None:
        """By how much one of them, the winner if no other, is better than another.

        The winner was chosen on the images and seeds that its gains are measured on. So the
        intervals of those hold together, with 95 %, for the winner over all others: Bonferroni's.
        One by one, chance alone would lift the best of six nets that are all alike above a given
        baseline in one study of ten.
        """
        if of is not None and of is not self.winner:
            return of.gain_over(over)
        comparisons = max(1, len(self.finalists) - 1) if self.retrained else 1
        return self.winner.gain_over(over, 1 - (1 - CONFIDENCE) / comparisons)

    def is_tied(self, finalist: Finalist) -> bool:
        """Whether the winner can't be told from it on these images and seeds."""
        gain = self.gain(finalist)
        return finalist is not self.winner and gain is not None and abs(gain[0]) <= gain[1]

    def barred(self) -> list[Finalist]:
        """Those that are better than the winner by more than chance allows, but break the
        constraints."""
        gains = [(finalist, self.gain(finalist)) for finalist in self.finalists]
        return [finalist for finalist, gain in gains if gain is not None and -gain[0] > gain[1]]

    def baseline(self, name: str) -> Finalist | None:
        return next((f for f in self.finalists if f.baseline == name), None)

    def scores(self) -> dict[str, tuple[float, float]]:
        """By name, the mean of each finalist that was scored and half the width of its interval."""
        return {f.name: f.selection for f in self.finalists if f.selection is not None}

    def to_json(self) -> dict[str, Any]:
        """A table for MLflow: names, trial numbers, means, half widths, gaps."""
        return {
            "judged_by": f"selection/{self.judged}",
            "winner": self.winner.name,
            "finalists": [self._row(finalist) for finalist in self.finalists],
        }

    def _row(self, finalist: Finalist) -> dict[str, Any]:
        mean, half = finalist.selection or (None, None)
        gain, gain_half = self.gain(finalist) or (None, None)
        return {
            "name": finalist.name,
            "trial": finalist.trial.number,
            "trainings": [training.number for training in finalist.trainings],
            "search_score": finalist.search_score,
            "selection_mean": mean,
            "selection_half_width": half,
            "optimism_gap": finalist.optimism,
            "winner_gains": gain,
            "winner_gains_half_width": gain_half,
        }

    def metrics(self) -> dict[str, float]:
        """The same as metrics of MLflow."""
        found = {}
        for row in self.to_json()["finalists"]:
            for name in ("selection_mean", "selection_half_width", "optimism_gap"):
                if row[name] is not None:
                    found[f"{row['name']}/{name}"] = float(row[name])
        return found


def finalist_name(trial: FrozenTrial) -> str:
    """Its baseline's name, or `trial 12`."""
    return str(trial.user_attrs.get(BASELINE, f"trial {trial.number}"))


def ranked(
    finalists: Sequence[Finalist], judged: Judged, others: Sequence[str] = ()
) -> tuple[Finalist, ...]:
    """Those that keep the constraints first, of them the best mean; of equals the better one by the
    `others` (metrics) of the search, and then the older trial."""

    def key(finalist: Finalist) -> tuple[Any, ...]:
        mean = 0.0 if finalist.selection is None else finalist.selection[0]
        signed = -mean if higher_is_better(judged) else mean
        rest = turned([fmean(finalist.on_selection(metric)) for metric in others], others)
        return not finalist.is_feasible, signed, rest, finalist.trial.number

    return tuple(sorted(finalists, key=key))


def best_training(finalist: Finalist, metric: str) -> FrozenTrial:
    """The training that validation likes best: selection images don't choose among seeds."""
    best, *others = finalist.trainings
    for other in others:
        if other.value is not None and is_better(metric, other.value, best.value or 0.0):
            best = other
    return best
