"""What a search by several metrics has to offer: its front, and what is left of it on the selection
images, which the search never saw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from optuna.trial import FrozenTrial

from pipeline.answers import judged_by
from pipeline.finalists import Finalist, Verdict, finalist_name
from pipeline.study.front import front, turned
from pipeline.study.ledger import Ledger
from pipeline.study.store import SCORED

MAX_SHOWN = 10


@dataclass(frozen=True)
class Measured:
    """A metric on the selection images: the mean over fresh seeds, the lowest, the highest."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Offer:
    """A trial that one may want.

    Args:
        search: its metrics in the search, in the study's order; None where one is not on record.
        selection: the same on the selection images; empty where it was not trained again.
        is_on_front: whether no trial of the search beats it in all metrics.
        stays: whether no other offer does on the selection images; None where that is not known.
    """

    name: str
    trial: FrozenTrial
    search: tuple[float | None, ...]
    selection: tuple[Measured, ...]
    is_on_front: bool
    stays: bool | None = None


@dataclass(frozen=True)
class TradeOff:
    """What there is to choose from.

    Args:
        judged: what the verdict goes by, on the selection images.
        front: the trials of the search, by number, that none beats in all metrics.
        offers: the finalists, the winner first; or before they are trained some of the front.
    """

    metrics: tuple[str, ...]
    judged: str
    front: frozenset[int]
    offers: tuple[Offer, ...]

    @property
    def alternatives(self) -> list[str]:
        """Who holds out beside the winner on the selection images, by name."""
        return [offer.name for offer in self.offers[1:] if offer.stays]

    def to_json(self) -> dict[str, Any]:
        """As part of the finalists' table in MLflow."""
        return {
            "metrics": list(self.metrics),
            "front": sorted(self.front),
            "offers": [
                {
                    "name": offer.name,
                    "trial": offer.trial.number,
                    "search": offer.search,
                    "selection": [vars(measured) for measured in offer.selection],
                    "on_front": offer.is_on_front,
                    "on_front_on_selection": offer.stays,
                }
                for offer in self.offers
            ],
        }


def trade_off(ledger: Ledger, verdict: Verdict | None) -> TradeOff | None:
    """What a search by several metrics found; None for one metric, or without a complete trial.

    The scores on the selection images are told by their spread over seeds, and not by an interval:
    the calibration error and macro F1 are no means over images.
    """
    metrics, of_front = ledger.objectives, ledger.front()
    if len(metrics) == 1 or not of_front:
        return None
    numbers = frozenset(trial.number for trial in of_front)
    if verdict is None or not verdict.retrained:
        some = ledger.contenders(min(MAX_SHOWN, len(of_front)))
        found = [Offer(finalist_name(t), t, _searched(t, metrics), (), True) for t in some]
        return TradeOff(metrics, judged_by(metrics[0]), numbers, tuple(found))
    judged = [_measured(finalist, metrics) for finalist in verdict.finalists]
    may = [i for i, finalist in enumerate(verdict.finalists) if finalist.is_feasible]
    points = [turned([one.mean for one in judged[i]], metrics) for i in may]
    staying = {may[place] for place in front(points)}
    offers = (
        Offer(
            finalist.name,
            finalist.trial,
            _searched(finalist.trial, metrics),
            judged[index],
            finalist.trial.number in numbers,
            index in staying,
        )
        for index, finalist in enumerate(verdict.finalists)
    )
    return TradeOff(metrics, judged_by(metrics[0]), numbers, tuple(offers))


def _searched(trial: FrozenTrial, metrics: Sequence[str]) -> tuple[float | None, ...]:
    scored = trial.user_attrs.get(SCORED, {})
    return tuple(scored.get(metric) for metric in metrics)


def _measured(finalist: Finalist, metrics: Sequence[str]) -> tuple[Measured, ...]:
    by_metric = map(finalist.on_selection, metrics)
    return tuple(Measured(fmean(values), min(values), max(values)) for values in by_metric)
