"""The final of a search: its finalists are trained again, one wins, and is registered."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from pipeline.champion import Champion
from pipeline.champion_record import remember_champion
from pipeline.finalists import KIND, Verdict, points, verdict
from pipeline.followups import Workshop, gave_up, publish
from pipeline.refit import chosen_epoch, refit_points, refit_trainings
from pipeline.registration import Registrar, Registration
from pipeline.study.followup import REFIT, FollowUp
from pipeline.tracking import Mirror
from pipeline.tradeoff import TradeOff, trade_off
from pipeline.weights import WeightStore

UNREFIT = "the refit is not trained; this is the winner without it until it is"
UNFINISHED = "the finalists are not all trained; this is the search's own champion until they are"


@dataclass(frozen=True)
class Crowned:
    """What a final came to; without a verdict, there is nobody to crown."""

    verdict: Verdict | None = None
    champion: Champion | None = None
    trade_off: TradeOff | None = None
    registered: list[Registration] = field(default_factory=list)


def train_finalists(shop: Workshop, num_images: int) -> FollowUp | None:
    """The finalists' trainings, once the search is over; None where there shall or can be none.

    Args:
        num_images: how many selection images there are.
    """
    ledger = shop.ledger
    if not (ledger.is_over() and ledger.config.finalists.count and num_images):
        return None
    return shop.train(KIND, points(ledger), keeps=True) if ledger.best() else None


def train_refit(shop: Workshop, finalists: FollowUp | None) -> FollowUp | None:
    """The winner's refit, once it is known who has won; None where there shall or can be none."""
    if not shop.ledger.config.finalists.refit or finalists is None or not finalists.is_over():
        return None
    found = verdict(shop.ledger, finalists)
    if found is None:
        return None
    return shop.train(REFIT, refit_points(shop.ledger, found.winner), keeps=True)


def crown(
    registrar: Registrar,
    finalists: FollowUp | None,
    refit: FollowUp | None,
    mirror: Mirror | None,
) -> Crowned:
    """The verdict, on the finalists once all of them are trained, and what it puts into the
    registry.

    Args:
        finalists, refit: their trainings, as far as there are any.
        mirror: MLflow; None where it is away.
    """
    trained = finalists if finalists is not None and finalists.is_over() else None
    found = None if trained is None else verdict(registrar.ledger, trained)
    if found is None:
        trained, found = None, registrar.scorer.of_the_search()
        if found is not None and finalists is not None:
            found = replace(found, notes=(*found.notes, UNFINISHED, *_failures(finalists)))
    if found is None:
        baselines = registrar.scorer.baselines()  # to be compared with, even while nobody may win
        return Crowned(registered=registrar.register_all(None, baselines, None, mirror))
    registrar.ledger.keep("winner", found.winner.trial.number)
    champion = _champion(registrar, found, trained, refit)
    offers = trade_off(registrar.ledger, found)
    remember_champion(registrar.ledger, champion)
    if mirror is not None and trained is not None:
        table = {**found.to_json(), "champion": champion.to_json()}
        if offers is not None:
            table["trade_off"] = offers.to_json()
        publish(mirror, trained, {"finalists.json": table}, found.metrics())
    others = () if offers is None else offers.alternatives
    registered = registrar.register_all(champion, found.finalists, trained, mirror, others)
    if refit is not None and champion.refit is not None:  # an earlier winner's is needed no more
        needed = {trial.number for trial in champion.refit.nets.trials}
        WeightStore(refit.uuid).keep_only(lambda number: number in needed)
    return Crowned(found, champion, offers, registered)


def _champion(
    registrar: Registrar, found: Verdict, trained: FollowUp | None, refit: FollowUp | None
) -> Champion:
    """The winner's nets, or their refit."""
    champion, ledger = registrar.scorer.champion(found, trained), registrar.ledger
    if trained is None or not ledger.config.finalists.refit:
        return champion
    trials = () if refit is None else refit_trainings(ledger, found.winner, refit)
    if not trials:
        return replace(champion, notes=(*champion.notes, UNREFIT, *_failures(refit)))
    return registrar.scorer.refit(champion, trials, refit, chosen_epoch(found.winner))


def _failures(followup: FollowUp | None) -> tuple[str, ...]:
    return () if followup is None or not followup.given_up else (gave_up(followup),)
