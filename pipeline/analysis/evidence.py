"""What the trials say of one setting's range: where the best are, and which part is ruinous.

Positions are those of `Dimension`, from 0 at the low bound to 1 at the high one. `adjusted` is how
bad trials were with the other settings' effects taken off (see `additive`), low is good.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from scipy.stats import spearmanr

from pipeline.analysis.additive import Dimension
from pipeline.analysis.ranking import Floats, num_top

Side = Literal["low", "high"]

OUTER, OUTER_TENTH, OUTER_OF_SOUND = 0.3, 0.1, 0.45
TREND_PART, TREND_LEVEL = 0.75, 0.2
MIN_PART, MAX_PART, MIN_LEFT = 0.2, 0.5, 0.25
MIN_IN_PART = 4


def edge(dim: Dimension, adjusted: Floats, sound: tuple[float, float] = (0.0, 1.0)) -> Side | None:
    """The edge at which the best trials of a number lie, if they do.

    At least half of the top trials are in the outer 30 % of the range and one of them in its outer
    tenth. (Evenly drawn trials of a setting that gets better up to its edge fill the outer fifth,
    so an outer tenth alone would ask for more than even a perfect record shows.) A level stretch
    beside a ruinous part is no edge: of the rest of the range, half of the top trials are in the
    outer 45 %, and in its outer three quarters trials tend to get better towards the edge
    (Spearman's rank correlation at the 20 % level).

    Args:
        sound: the range without its ruinous parts, from and to.
    """
    at, values = dim.positions[dim.active], adjusted[dim.active]
    best = np.argsort(values, kind="stable")[: num_top(len(at))]
    top = at[best]
    sides: tuple[tuple[Side, Floats], ...] = (("high", 1 - top), ("low", top))
    for side, inward in sides:
        if np.median(inward) <= OUTER and inward.min() <= OUTER_TENTH:
            low, high = sound
            end, width = (high, low - high) if side == "high" else (low, high - low)
            inner = (at - end) / width  # from 0 at the edge to 1 at the other end of what is sound
            half = np.median(inner[best]) <= OUTER_OF_SOUND
            near = inner <= TREND_PART
            return side if half and _improves(at[near], values[near], side) else None
    return None


def _improves(at: Floats, adjusted: Floats, side: Side) -> bool:
    """Whether trials get better (lower) towards a side."""
    if len(np.unique(at)) < 3:
        return True  # a few whole numbers: too few for a trend
    towards: Literal["less", "greater"] = "less" if side == "high" else "greater"
    return bool(spearmanr(at, adjusted, alternative=towards).pvalue <= TREND_LEVEL)


def ruinous_part(
    dim: Dimension, adjusted: Floats, ranks: Floats, side: Side, room: float
) -> tuple[float, int] | None:
    """The largest outer part of a number's range with poor trials only.

    It takes at least a fifth of the range and four trials. Either all of them, with the other
    settings equal, are worse than three quarters of the trials elsewhere (four by chance: 0.4 %);
    or all are in the worst quarter as they are, and worse than half of the others with the other
    settings equal. The second is for regions so bad that nothing else shows in them.

    Args:
        room: how much of the range may be cut off at most, from 0 to 1.

    Returns:
        Where the part begins, and how many trials are in it; None if there is none.
    """
    at = dim.positions[dim.active]
    inward = 1 - at if side == "high" else at  # distance from the edge
    values, plain = adjusted[dim.active], ranks[dim.active]
    depths = {max(float(d), MIN_PART) for d in inward if d <= room}
    for depth in sorted((d for d in depths if d <= room), reverse=True):
        part = inward <= depth
        if part.sum() >= MIN_IN_PART and not part.all() and _is_poor(part, values, plain):
            return (1 - depth if side == "high" else depth), int(part.sum())
    return None


def _is_poor(
    part: np.ndarray[tuple[int], np.dtype[np.bool_]], adjusted: Floats, ranks: Floats
) -> bool:
    best, elsewhere = adjusted[part].min(), adjusted[~part]
    return bool(
        best > np.quantile(elsewhere, 0.75)
        or (ranks[part].min() > 0.25 and best > np.median(elsewhere))
    )


def poor_choices(dim: Dimension, adjusted: Floats) -> list[int]:
    """The choices, by index, of which at least four trials were and none in the better half."""
    at, values = dim.positions[dim.active], adjusted[dim.active]
    middle = np.median(values)
    counts = {int(index): values[at == index] for index in np.unique(at)}
    return [i for i, own in counts.items() if len(own) >= MIN_IN_PART and own.min() > middle]
