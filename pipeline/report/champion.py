"""What the summary says of a champion that is more than one net of the winner's."""

from __future__ import annotations

from rich.text import Text

from pipeline.answers import Gain
from pipeline.champion import Champion, Refit
from pipeline.nets import Nets
from pipeline.words import show_gain, show_mean


def champion_lines(champion: Champion | None) -> list[Text]:
    """A line for an ensemble, and one for a refit; nothing for one net without one."""
    if champion is None:
        return []
    lines = []
    if champion.over_single is not None:
        lines.append(_ensemble(champion.winner, champion.over_single))
    if champion.refit is not None:
        lines.append(_refit(champion.winner, champion.refit))
    return [Text(line) for line in lines]


def _refit(winner: Nets, refit: Refit) -> str:
    what = (
        "is worse than chance allows, and so what is registered is without it"
        if refit.is_worse
        else "is registered"
    )
    return (
        f"refit for {refit.num_epochs} epochs on training and validation images, {winner.name} "
        f"has {_score(refit.nets)} on selection, without that {_score(winner)} "
        f"({show_gain(winner.judged, refit.gain)} in pairs); the refit {what}"
    )


def _ensemble(nets: Nets, gain: Gain) -> str:
    count = len(nets.trials)
    return (
        f"the ensemble of {nets.name}'s {count} nets has {_score(nets)} on selection, "
        f"{show_gain(nets.judged, gain)} over its nets one by one, and takes {count} times as "
        "long as one"
    )


def _score(nets: Nets) -> str:
    return show_mean(nets.judged, nets.selection)
