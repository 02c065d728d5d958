"""The trade-off of a search by several metrics; a search by one has no such section."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.finalists import KIND
from pipeline.report.evidence import Evidence
from pipeline.report.figures.dots import dots
from pipeline.report.figures.tradeoff import trade_off_figure
from pipeline.report.page import Picture, Row, Section, Table
from pipeline.report.tradeoff import cells, columns, explanations
from pipeline.tradeoff import TradeOff

TITLE = "The trade-off"


def trade_off_section(evidence: Evidence) -> Section | None:
    """What there is to choose from, as a table and as a picture for each other metric."""
    if len(evidence.ledger.objectives) == 1:
        return None
    found = evidence.trade_off
    if found is None:
        text = "No trial is complete, or may win: `regsearch run SPACE.yaml` goes on."
        return Section("trade-off", TITLE, missing=(text,))
    missing: tuple[str, ...] = ()
    if not any(offer.selection for offer in found.offers):
        missing = ("How much of it holds out on the selection images is not known yet.",)
    winner = evidence.verdict and evidence.verdict.winner.name
    rows = [
        Row(
            (*cells(found, offer), evidence.sources.of_trial(offer.trial.number)),
            marked=evidence.is_final and offer.name == winner,
        )
        for offer in found.offers
    ]
    caption = "Finalists by each metric" if not missing else "Some of the front"
    return Section(
        "trade-off",
        TITLE,
        lead=tuple(explanations(found)),
        tables=(Table(caption, (*columns(found), "MLflow run of the trial"), rows),),
        pictures=tuple(_pictures(evidence, found)),
        missing=missing,
        source=f"Optuna study {evidence.ledger.study_name}; on selection: MLflow run of the "
        f"finalists, {evidence.sources.of_followup(KIND) or 'none'}, finalists.json.",
    )


def _pictures(evidence: Evidence, found: TradeOff) -> Iterator[Picture]:
    first, *others = found.metrics
    shown = dots(evidence.trials)
    scored = {trial.number: evidence.scored(trial) for trial in evidence.trials}
    for index, other in enumerate(others):
        xs = {number: s[other] for number, s in scored.items() if other in s}
        yield Picture(
            f"trade-off-{index}",
            f"{first} against {other}: every trial of the search, its front, and by number the "
            "finalists' means on the selection images.",
            trade_off_figure(shown, xs, found, other),
        )
