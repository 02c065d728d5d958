"""What the summary says of a champion that is more than one net of the winner's."""

from __future__ import annotations

from rich.text import Text

from pipeline.champion import Champion, Gain
from pipeline.nets import Nets
from pipeline.words import plus_minus, points, show_metric


def champion_lines(champion: Champion | None) -> list[Text]:
    """A line for an ensemble; nothing for one net."""
    if champion is None or champion.over_single is None:
        return []
    return [Text(_ensemble(champion.winner, champion.over_single))]


def _ensemble(nets: Nets, gain: Gain) -> str:
    count = len(nets.trials)
    return (
        f"the ensemble of {nets.name}'s {count} nets has {_score(nets)} on selection, "
        f"{_gain(nets, gain)} over its nets one by one, and takes {count} times as long as one"
    )


def _score(nets: Nets) -> str:
    mean, half = nets.selection or (0.0, 0.0)
    return f"{show_metric(nets.judged, mean)} {plus_minus(nets.judged, half)}"


def _gain(nets: Nets, gain: Gain) -> str:
    return f"{points(nets.judged, gain[0])} {plus_minus(nets.judged, gain[1])}"
