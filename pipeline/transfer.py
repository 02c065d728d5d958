"""The transfer check: do strengths hold at twice the epochs, and at half the data?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.answers import Gain
from pipeline.decision import points, verdict, verdict_on
from pipeline.finalists import KIND as FINALISTS
from pipeline.finalists import Finalist, Verdict
from pipeline.settings import Scalar
from pipeline.study.followup import Point, find_followup
from pipeline.study.ledger import Ledger

EPOCHS, DATA = "transfer-epochs", "transfer-data"
CONDITIONS = {EPOCHS: "twice the epochs", DATA: "half the training images"}
SEARCHED = "as searched"
_EPOCHS = "training.epochs"


@dataclass(frozen=True, eq=False)
class Transfer:
    """The finalists under another condition.

    Args:
        kind: of the follow-up.
        before, after: the verdict as the study has it, and under the condition.
    """

    kind: str
    before: Verdict
    after: Verdict

    @property
    def condition(self) -> str:
        return CONDITIONS[self.kind]

    @property
    def holds(self) -> bool:
        """Whether the winner is still the best, or can't be told from the best."""
        winner = self.before.winner.name
        found = next((f for f in self.after.finalists if f.name == winner), None)
        return found is not None and (found is self.after.winner or self.after.is_tied(found))

    def gains(self) -> dict[str, tuple[Gain | None, Gain | None]]:
        """What each finalist gains over the unregularized baseline, before and after."""
        return {
            finalist.name: (_gain(self.before, before), _gain(self.after, finalist))
            for finalist in self.after.finalists
            for before in self.before.finalists
            if before.name == finalist.name
        }

    def to_json(self) -> dict[str, Any]:
        return {
            "condition": self.condition,
            "holds": self.holds,
            "gains_over_unregularized": {
                name: {"before": before, "after": after}
                for name, (before, after) in self.gains().items()
            },
            **self.after.to_json(),
        }


def _gain(verdict: Verdict, finalist: Finalist) -> Gain | None:
    baseline = verdict.baseline("unregularized")
    if baseline is None or baseline is finalist:
        return None
    return verdict.gain(baseline, of=finalist)


def transfer_points(ledger: Ledger, kind: str) -> list[Point]:
    """The finalists with fresh seeds; for twice the epochs, each with twice its own."""
    before = _verdict(ledger)
    trials = None if before is None else [finalist.trial for finalist in before.finalists]
    found = points(ledger, kind, trials)
    if kind != EPOCHS:
        return found
    return [Point(p.group, p.seed, {**p.overrides, **_twice(ledger, p.overrides)}) for p in found]


def _twice(ledger: Ledger, overrides: Mapping[str, Scalar]) -> dict[str, Scalar]:
    epochs = ledger.config.with_overrides(overrides).training.epochs
    return {_EPOCHS: 2 * epochs}


def transfer_changes(kind: str, num_train: int) -> dict[str, Scalar]:
    """How all of them differ from the study's settings.

    Args:
        num_train: training images of the study.
    """
    return {"data.train_images": max(1, num_train // 2)} if kind == DATA else {}


def read_transfers(ledger: Ledger) -> list[Transfer]:
    """What the trainings say that there are; of conditions that are trained for a finalist."""
    before = _verdict(ledger)
    if before is None:
        return []
    trials, seeds = [f.trial for f in before.finalists], ledger.config.finalists.seeds
    books = {kind: find_followup(ledger, kind) for kind in CONDITIONS}
    after = {kind: verdict_on(ledger, of, trials, seeds) for kind, of in books.items() if of}
    return [Transfer(kind, before, found) for kind, found in after.items() if found is not None]


def _verdict(ledger: Ledger) -> Verdict | None:
    finalists = find_followup(ledger, FINALISTS)
    return None if finalists is None else verdict(ledger, finalists)
