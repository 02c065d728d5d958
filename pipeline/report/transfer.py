"""What the transfer check of `regsearch ablate --transfer` found, as a table and in words."""

from __future__ import annotations

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from pipeline.transfer import SEARCHED, Transfer
from pipeline.words import show_gain

CHOSEN_HERE = "the interval of a column's best allows for its having been chosen there"


def transfer_report(transfer: Transfer) -> list[RenderableType]:
    """What each finalist gains over no regularization, as it was and under the condition."""
    judged = transfer.before.judged
    table = Table("", SEARCHED, transfer.condition, box=box.SIMPLE_HEAD, pad_edge=False)
    for name, (before, after) in transfer.gains().items():
        table.add_row(name, show_gain(judged, before), show_gain(judged, after))
    return [
        Text(f"gains over no regularization at {transfer.condition}", style="bold"),
        table,
        Text(f"{CHOSEN_HERE}.", style="dim italic"),
        Text(transfer_sentence(transfer)),
    ]


def transfer_sentence(transfer: Transfer) -> str:
    """Whether the study's choice carries over to the condition."""
    winner, best, judged = transfer.before.winner, transfer.after.winner, transfer.before.judged
    there = next((f for f in transfer.after.finalists if f.name == winner.name), None)
    if there is None:
        said = f"{winner.name} is not trained, so that nothing is known of the choice"
    elif there is best:
        said = f"{winner.name} is the best again: the choice carries over"
    else:
        lead = show_gain(judged, transfer.after.gain(there))
        said = (
            f"{best.name} has the best mean, and {winner.name} can't be told from it ({lead}): "
            "the choice carries over as far as can be told"
            if transfer.holds
            else f"{best.name} is better than {winner.name} ({lead}): "
            "the choice does not carry over"
        )
    return f"at {transfer.condition}: {said}"
