"""The final of a search: its finalists are trained again, one wins, and is registered."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from pipeline.champion import Champion
from pipeline.champion_record import remember_champion
from pipeline.decision import choose, points, remember_final, verdict
from pipeline.finalists import KIND, Verdict
from pipeline.followups import Workshop, gave_up, publish
from pipeline.refit import chosen_epoch, refit_points, refit_trainings
from pipeline.registration import Registrar, Registration
from pipeline.study.followup import REFIT, FollowUp, find_followup
from pipeline.tracking import Mirror
from pipeline.tradeoff import TradeOff, trade_off

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
    """The finalists' trainings; while the search goes on those of the last final, if there was one.
    None where there shall or can be none.

    Args:
        num_images: how many selection images there are.
    """
    ledger = shop.ledger
    if not (ledger.config.finalists.count and num_images and ledger.best()):
        return None
    if not ledger.is_over():
        return find_followup(ledger, KIND)
    chosen = choose(ledger)
    followup = shop.train(KIND, points(ledger, KIND, chosen), keeps=True)
    remember_final(ledger, followup, chosen)
    return followup


def train_refit(shop: Workshop, finalists: FollowUp | None) -> FollowUp | None:
    """The winner's refit, once it is known who has won; None where there shall or can be none."""
    if not shop.ledger.config.finalists.refit or finalists is None:
        return None
    if not (shop.ledger.is_over() and finalists.is_over()):
        return find_followup(shop.ledger, REFIT)
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
    """The verdict of the last final whose trainings have all ended, else of the search alone, and
    what it puts into the registry.

    Args:
        finalists, refit: their trainings, as far as there are any.
        mirror: MLflow; None where it is away.
    """
    trained, found = finalists, None if finalists is None else verdict(registrar.ledger, finalists)
    if found is None:
        trained, found = None, registrar.scorer.of_the_search()
        if found is not None and finalists is not None:
            found = replace(found, notes=(*found.notes, UNFINISHED, *_failures(finalists)))
    if found is None:
        baselines = registrar.scorer.baselines()  # to be compared with, even while nobody may win
        registrar.ledger.keep("winner", None)
        return Crowned(registered=registrar.register_all(None, baselines, None, mirror))
    registrar.ledger.keep("winner", found.winner.trial.number)
    champion = _champion(registrar, found, trained, refit)
    offers = trade_off(registrar.ledger, found)
    remember_champion(registrar.ledger, champion)
    if mirror is not None and trained is not None:
        table = {**found.to_json(), "champion": champion.to_json()}
        if offers is not None:
            table["trade_off"] = offers.to_json()
        unlogged = publish(mirror, trained, {"finalists.json": table}, found.metrics())
        if unlogged:
            text = f"MLflow did not take finalists.json: {unlogged}"
            champion = replace(champion, notes=(*champion.notes, text))
    others = () if offers is None else offers.alternatives
    registered = registrar.register_all(champion, found.finalists, trained, mirror, others)
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
