"""The `finalists:` section: how the winner of a search is found, and what is made of it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pipeline.settings import Settings


class FinalistSettings(Settings):
    """`finalists:` - how the winner is found once the search is over, and what is registered."""

    count: Annotated[int, Field(ge=0, le=50)] = 5
    """So many of the best trials, and the baselines, are trained again and compared on the
    selection images; 0 takes the search's best trial as it is."""
    seeds: Annotated[int, Field(ge=1, le=50)] = 3
    """Fresh seeds that each of them is trained with."""
    champion: Literal["best", "ensemble"] = "best"
    """What is registered of the winner: the net that validation likes best, or the mean of the
    probabilities of the nets of all seeds, as one model that takes `seeds` times as long. It is
    probabilities that are averaged and never weights: nets of different seeds don't lie in one
    basin, and between them the loss is high."""
    refit: bool = False
    """Train the winner's settings once more, on the training and validation images together, for as
    many epochs as were best by validation (the median over the seeds) and without early stopping; a
    `plateau` schedule goes by the training loss then. The selection images judge it, and it is
    registered unless it is worse on them than without, beyond the 95 % interval."""
