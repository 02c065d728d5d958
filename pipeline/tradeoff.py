"""What a search by several metrics has to offer: its front, and what is left of it on the selection
images, which the search never saw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from optuna.trial import FrozenTrial

from pipeline.events import TrialScored, now_ms
from pipeline.finalists import Finalist, Verdict, finalist_name
from pipeline.journal import JournalWriter
from pipeline.study.carried import is_carried
from pipeline.study.front import front, turned
from pipeline.study.ledger import Ledger
from pipeline.study.store import ATTEMPT, SCORED

PARETO = "regsearch.pareto"
"""Tag of a trial's run: `front`, or `dominated` where it was on the front once."""
MAX_SHOWN = 10
TOLD = "front"


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
        front: the trials of the search, by number, that none beats in all metrics.
        offers: the finalists, the winner first; or before they are trained some of the front.
    """

    metrics: tuple[str, ...]
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
        some = ledger.contenders(MAX_SHOWN)
        found = [Offer(finalist_name(t), t, _searched(t, metrics), (), True) for t in some]
        return TradeOff(metrics, numbers, tuple(found))
    judged = [_measured(finalist, metrics) for finalist in verdict.finalists]
    points = [turned([one.mean for one in measured], metrics) for measured in judged]
    staying = set(front(points))
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
    return TradeOff(metrics, numbers, tuple(offers))


def tell_front(ledger: Ledger, journal: JournalWriter) -> None:
    """Tag the runs of the trials that are on the front now, or have left it since it was told."""
    if len(ledger.objectives) == 1:
        return
    now = {trial.number for trial in ledger.front()}
    told = set(ledger.study.user_attrs.get(f"regsearch.{TOLD}", []))
    for trial in ledger.trials():
        if trial.number in now ^ told and not is_carried(trial):
            word = "front" if trial.number in now else "dominated"
            attempt, epoch = trial.user_attrs[ATTEMPT], int(trial.user_attrs[SCORED]["epoch"])
            event = TrialScored(trial.number, attempt, epoch, {}, {PARETO: word}, now_ms())
            journal.put(event)
    if now != told:
        ledger.keep(TOLD, sorted(now))


def _searched(trial: FrozenTrial, metrics: Sequence[str]) -> tuple[float | None, ...]:
    scored = trial.user_attrs.get(SCORED, {})
    return tuple(scored.get(metric) for metric in metrics)


def _measured(finalist: Finalist, metrics: Sequence[str]) -> tuple[Measured, ...]:
    scored = [training.user_attrs[SCORED] for training in finalist.trainings]
    by_metric = ([_on_selection(one, metric) for one in scored] for metric in metrics)
    return tuple(Measured(fmean(values), min(values), max(values)) for values in by_metric)


def _on_selection(scored: dict[str, float], metric: str) -> float:
    if metric == "generalization_gap":
        return scored["train/clean_accuracy"] - scored["selection/accuracy"]
    return scored[f"selection/{metric.rpartition('/')[2]}"]
