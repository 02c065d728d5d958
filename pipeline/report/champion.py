"""What is said of a champion that is more than one net of the winner's."""

from __future__ import annotations

from collections.abc import Iterator

from rich.text import Text

from pipeline.answers import Gain
from pipeline.champion import Champion, Refit
from pipeline.nets import Nets
from pipeline.words import show_gain, show_mean


def champion_lines(champion: Champion | None) -> list[Text]:
    """As the summary shows it."""
    return [] if champion is None else [Text(line) for line in champion_words(champion)]


def champion_words(champion: Champion) -> Iterator[str]:
    """A line for an ensemble, and one for a refit; nothing for one net without one."""
    if champion.over_single is not None:
        yield _ensemble(champion.winner, champion.over_single)
    if champion.refit is not None:
        yield _refit(champion.winner, champion.refit)


def _refit(winner: Nets, refit: Refit) -> str:
    gain, half = refit.gain
    if refit.is_worse:
        what = "is worse than chance allows, and so what is registered is without it"
    elif gain > half:
        what = "is better than chance allows, and is registered"
    else:
        what = "is no worse than chance allows, and is registered"
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
