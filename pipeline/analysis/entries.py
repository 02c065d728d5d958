"""Entries of a search with other bounds: wider at an edge, or with a part cut off."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

from pipeline.analysis.evidence import Side
from pipeline.config.search_space import FloatEntry, IntEntry

Number = FloatEntry | IntEntry

SHARES = (0.5, 0.25, 0.125, 0.0625)
"""By how much of its width a range is widened: the first one that the setting accepts."""


def with_bound(entry: Number, side: Side, value: float) -> Number:
    """The entry with another `low` or `high`; whole numbers stay whole."""
    bound = int(value) if isinstance(entry, IntEntry) else value
    return type(entry).model_validate(entry.model_dump(exclude_unset=True) | {side: bound})


def widened(
    entry: Number, side: Side, accepts: Callable[[Number], bool], off: float | None = None
) -> Number | None:
    """The entry with half of its width more at one side (on a log scale: of its logarithm's).

    Where the setting does not go so far, it is a quarter, an eighth or a sixteenth, and None where
    it goes no further at all. A range that comes near `off` from above begins there.
    """
    for share in SHARES:
        bound = _beyond(entry, side, share)
        if side == "low" and off is not None and not entry.log and bound < off < entry.low:
            bound = off
        candidate = with_bound(entry, side, bound) if not entry.log or bound > 0 else entry
        if getattr(candidate, side) != getattr(entry, side) and accepts(candidate):
            return candidate
    return None


def _beyond(entry: Number, side: Side, share: float) -> float:
    outward = 1 if side == "high" else -1
    if (step := _step(entry)) is not None:
        low, high = Fraction(str(entry.low)), Fraction(str(entry.high))
        count = max(1, math.ceil(share * (high - low) / step))
        return float((high if side == "high" else low) + outward * count * step)
    return _rounded(entry, value_at(entry, 1 + share if side == "high" else -share), None)


def cut(entry: Number, side: Side, position: float) -> Number | None:
    """The entry that ends at a position (from 0 to 1), rounded outward; None if it is the same."""
    value = _rounded(entry, value_at(entry, position), side)
    if (step := _step(entry)) is not None:
        round_outward = math.ceil if side == "high" else math.floor
        low, high = Fraction(str(entry.low)), Fraction(str(entry.high))
        steps = Fraction(position).limit_denominator(10**6) * (high - low) / step
        value = float(low + round_outward(steps) * step)
    value = min(max(value, entry.low), entry.high)
    same = value == getattr(entry, side)
    empty = value <= entry.low if side == "high" else value >= entry.high
    return None if same or empty else with_bound(entry, side, value)


def value_at(entry: Number, position: float) -> float:
    """The value at a position of the range, from 0 at its low bound to 1 at its high one."""
    if entry.log:
        return float(entry.low * (entry.high / entry.low) ** position)
    return entry.low + position * (entry.high - entry.low)


def _step(entry: Number) -> Fraction | None:
    if isinstance(entry, IntEntry) and not entry.log:
        return Fraction(entry.step or 1)
    return None if entry.step is None else Fraction(str(entry.step))


def _rounded(entry: Number, value: float, outward: Side | None) -> float:
    """A value that reads well: to a hundredth of the range's magnitude, or two digits if log."""
    scale = value if entry.log else entry.high - entry.low
    digits = (1 if entry.log else 2) - math.floor(math.log10(abs(scale)))
    if isinstance(entry, IntEntry):
        digits = 0
    if outward is None:
        return round(value, digits)
    away: Callable[[float], int] = math.ceil if outward == "high" else math.floor
    # 0.3 * 100 is 30.000000000000004: what is a round number already stays one.
    return round(away(round(value * 10.0**digits, 6)) / 10.0**digits, digits)
