"""How the trade-off of a search by several metrics is told: on the screen and on the page."""

from __future__ import annotations

from collections.abc import Iterator

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from pipeline.tradeoff import Measured, Offer, TradeOff
from pipeline.training.metrics import direction
from pipeline.words import is_share, show_metric


def trade_off_lines(found: TradeOff | None) -> list[RenderableType]:
    """A row an offer; nothing for a search by one metric."""
    if found is None:
        return []
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for column in columns(found):
        table.add_column(column)
    for offer in found.offers:
        table.add_row(*cells(found, offer), style="" if offer.stays is False else "green")
    return [Text(""), table, *(Text(line, style="dim italic") for line in explanations(found))]


def columns(found: TradeOff) -> list[str]:
    """The head of the table."""
    names = [metric.rpartition("/")[2].replace("_", " ") for metric in found.metrics]
    less = [direction(metric) == "minimize" for metric in found.metrics]
    searched = [f"{n} (less is better)" if low else n for n, low in zip(names, less, strict=True)]
    judged = [f"on selection: {name}" for name in names] if _is_judged(found) else []
    still = ["on the front"] if judged else []
    return ["the trade-off", *searched, *judged, *still]


def cells(found: TradeOff, offer: Offer) -> list[str]:
    """One row of it."""
    searched = map(show_metric, found.metrics, offer.search)
    judged = map(_spread, found.metrics, offer.selection)
    still = [_where(offer)] if _is_judged(found) else []
    return [offer.name, *searched, *judged, *still]


def explanations(found: TradeOff) -> Iterator[str]:
    """How it is to be read, and how to see the rest."""
    trials = "1 trial" if len(found.front) == 1 else f"{len(found.front)} trials"
    yield (
        f"The front: {trials} that no other trial of the search beats in all metrics; in MLflow "
        "this study's own have the tag regsearch.pareto = front."
    )
    if _is_judged(found):
        yield (
            "On selection: the mean over fresh seeds, and in brackets the lowest and the highest, "
            f"on images that the search never saw. The winner has the best mean {found.judged} "
            "there; which is best for you, only you can say."
        )
        if found.alternatives:
            yield f"Beside the winner, these hold out there: {', '.join(found.alternatives)}."
        if found.offers[0].stays is False:
            yield f"{found.offers[0].name} wins by {found.judged} alone: another beats it there."


def _is_judged(found: TradeOff) -> bool:
    return any(offer.selection for offer in found.offers)


def _where(offer: Offer) -> str:
    if offer.is_on_front:
        return "in both" if offer.stays else "in the search only"
    return "on selection only" if offer.stays else "no"


def _spread(metric: str, measured: Measured) -> str:
    low, high = (
        f"{100 * value:.1f}" if is_share(metric) else f"{value:.3f}"
        for value in (measured.low, measured.high)
    )
    return f"{show_metric(metric, measured.mean)} ({low}–{high})"
