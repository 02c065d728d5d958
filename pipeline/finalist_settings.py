"""The `finalists:` section: how the winner of a search is found."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from pipeline.settings import Settings


class FinalistSettings(Settings):
    """`finalists:` - how the winner is found once the search is over."""

    count: Annotated[int, Field(ge=0, le=50)] = 5
    """So many of the best trials, and the baselines, are trained again and compared on the
    selection images; 0 takes the search's best trial as it is."""
    seeds: Annotated[int, Field(ge=1, le=50)] = 3
    """Fresh seeds that each of them is trained with."""
