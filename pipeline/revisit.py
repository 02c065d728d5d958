"""A study that was run, taken up again from its store: ablation and transfer check."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from pipeline.ablation import Ablation, ablation
from pipeline.ablation_design import KIND, design
from pipeline.datasets import load_splits
from pipeline.errors import UserError
from pipeline.finalists import KIND as FINALISTS
from pipeline.finalists import finalist_name
from pipeline.followups import Workshop, publish
from pipeline.mirroring import AWAY_SEC, open_mirror
from pipeline.progress import OPENING_MLFLOW, View
from pipeline.report.figures.ablation import ablation_figure
from pipeline.study.followup import FollowUp, find_followup
from pipeline.study.ledger import Ledger
from pipeline.study.record import recall
from pipeline.study.storage import open_storage
from pipeline.transfer import (
    CONDITIONS,
    Transfer,
    read_transfers,
    transfer_changes,
    transfer_points,
)
from pipeline.words import short_name
from pipeline.workers.plan import make_plan, resolve_devices


@dataclass(frozen=True)
class Means:
    """With what a study is taken up again.

    Attributes:
        num_workers: processes that train side by side; None for as many as suit the machine.
    """

    storage: str
    device: str = "auto"
    num_workers: int | None = None
    timeout_sec: float | None = None


@dataclass(frozen=True)
class Ablated:
    """What came of an ablation.

    Attributes:
        unfinished: whether trainings are missing, and the same command goes on.
    """

    ablation: Ablation
    transfers: list[Transfer]
    unfinished: bool
    unlogged: str = ""


def ablate(
    study: str, means: Means, view: View, *, seeds: int, pairs: int, transfer: bool
) -> Ablated:
    """Train the winner without each regularizer, each alone, and the strongest pairs.

    Args:
        pairs: of how many pairs of regularizers the interaction is measured.
        transfer: whether the finalists are trained at twice the epochs and at half the data too.

    Raises:
        UserError: no such study, no winner, no regularizer, other images, or no MLflow.
        KeyboardInterrupt: when interrupted; the running trainings were given back.
    """
    with _taken_up(study, means, view) as (shop, num_train):
        if transfer and find_followup(shop.ledger, FINALISTS) is None:
            raise UserError(
                f"{study!r} has no finalists to check",
                where="--transfer",
                rule="it compares a study's finalists under other conditions",
                cure="run its space file with `finalists.count` above 0 first",
            )
        plan = design(shop.ledger)
        winner = finalist_name(shop.ledger.trials()[int(shop.ledger.recorded("winner"))])
        if plan.name != winner:
            view.note(f"{winner}, the winner, has nothing to take away: the next best has")
        view.note(f"ablation of {plan.name}: {len(plan.regularizers)} regularizers")
        followup = shop.train(KIND, plan.points(seeds))
        strongest = ablation(plan, followup).strongest_pairs(pairs)
        if strongest and followup.is_over():
            named = (f"{short_name(one)} with {short_name(other)}" for one, other in strongest)
            view.note(f"pairs: {', '.join(named)}")
            followup = shop.train(KIND, plan.points(seeds, strongest))
        found = ablation(plan, followup)
        unlogged = publish(
            shop.mirror,
            followup,
            {"ablation.json": found.to_json()},
            found.metrics(),
            {"ablation.html": ablation_figure(found)},
        )
        trained = [followup, *(_transfers(shop, num_train) if transfer else [])]
        transfers = read_transfers(shop.ledger)
        for each in transfers:
            checked = next((f for f in trained if f.kind == each.kind), None)
            if checked is not None:
                unlogged = unlogged or publish(
                    shop.mirror, checked, {"transfer.json": each.to_json()}, {}
                )
    return Ablated(found, transfers, not all(f.is_over() for f in trained), unlogged)


def _transfers(shop: Workshop, num_train: int) -> list[FollowUp]:
    return [
        shop.train(
            kind, transfer_points(shop.ledger, kind), changes=transfer_changes(kind, num_train)
        )
        for kind in CONDITIONS
    ]


@contextmanager
def _taken_up(study: str, means: Means, view: View) -> Iterator[tuple[Workshop, int]]:
    """What trains follow-ups of a study, and how many training images it has."""
    store = open_storage(means.storage, create=False)
    ledger = Ledger(recall(store, study), store, begin=False)
    config = ledger.config
    _require_winner(ledger)
    devices = resolve_devices(means.device)
    splits = load_splits(config.data, config.study.seed, view.loading)
    ledger.require_same_data(splits.digest)
    if not len(splits.selection):
        raise UserError(
            f"{study!r} has no selection images",
            where="STUDY",
            rule="what a regularizer is worth is measured on images that the search never saw",
            cure="run it under another `study.name` with `data.selection_fraction` above 0",
        )
    plan = make_plan(config, splits, ledger, devices, means.num_workers, view)
    limit = means.timeout_sec
    deadline = math.inf if limit is None else time.time() + limit
    with view.doing(OPENING_MLFLOW):
        mirror = open_mirror(ledger)
    try:
        yield Workshop(ledger, plan, means.storage, mirror, view, deadline), len(splits.train)
    finally:
        mirror.close(AWAY_SEC)


def _require_winner(ledger: Ledger) -> None:
    if ledger.study.user_attrs.get("regsearch.winner") is None:
        raise UserError(
            f"{ledger.config.study.name!r} has no winner yet",
            where="STUDY",
            rule="an ablation takes the winner apart",
            cure="let `regsearch run` end first; the same command goes on",
        )
