"""Ranges of numbers made wider or narrower, on the scale that they are searched on."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from pipeline.config import RunConfig
from pipeline.config.search_space import FloatEntry, IntEntry, SearchEntry
from pipeline.config.space_check import check_search
from pipeline.errors import UserError
from pipeline.settings import Scalar

WIDER = 0.5
"""By so much of its width a range grows on one side."""
LOG_STEPS = 8


def position(entry: SearchEntry, value: Scalar) -> float:
    """Where a value lies in its range, 0 to 1; in the logarithm on a log scale."""
    assert isinstance(entry, (FloatEntry, IntEntry))
    scale = math.log if entry.log else float
    low, high = scale(entry.low), scale(entry.high)
    return (scale(float(value)) - low) / (high - low)


def cut(entry: SearchEntry, side: str, bad: Scalar, good: Scalar) -> SearchEntry:
    """The range without its outer part: up to the innermost bad value, or the first good step."""
    assert isinstance(entry, (FloatEntry, IntEntry))
    if isinstance(entry, IntEntry) or entry.step is not None:
        edge = float(good)
    else:
        edge = float(f"{float(bad):.2g}")
        if (edge > float(good)) if side == "lower" else (edge < float(good)):
            edge = float(bad)  # rounding must not take a good value away
    return _with(entry, side, edge)


def widen(
    config: RunConfig,
    old: SearchEntry,
    path: str,
    entry: SearchEntry,
    side: str,
    params: Mapping[str, Scalar],
) -> SearchEntry:
    """The range with half its width more on one side, as far as the setting accepts it.

    Args:
        old: the range whose width counts: `entry` may have been cut already.
        params: a point of the space, in which values beyond the edge are tried.
    """
    assert isinstance(entry, (FloatEntry, IntEntry))
    assert isinstance(old, (FloatEntry, IntEntry))
    widest = entry
    for value in _beyond(old, side):
        try:
            config.with_overrides({**params, path: value})
        except UserError:
            break
        widest = _with(entry, side, value)
    search = {**config.search, path: widest}
    impossible = any(check_search(config.model_copy(update={"search": search})))
    return entry if impossible else widest


def _beyond(entry: FloatEntry | IntEntry, side: str) -> Iterator[float | int]:
    """Values from an edge outward, up to half the range's width away."""
    edge, sign = (entry.low, -1) if side == "lower" else (entry.high, 1)
    whole = isinstance(entry, IntEntry)
    if entry.log:
        ratio = (entry.high / entry.low) ** (WIDER / LOG_STEPS)
        for step in range(1, LOG_STEPS + 1):
            value = edge * ratio ** (sign * step)
            yield max(round(value), 1) if whole else float(f"{value:.2g}")
        return
    width = entry.high - entry.low
    unit = entry.step or (1 if whole else 10.0 ** (math.floor(math.log10(width)) - 1))
    for step in range(1, max(round(WIDER * width / unit), 1) + 1):
        value = edge + sign * step * unit
        yield int(value) if whole else float(f"{value:.10g}")


def _with(entry: FloatEntry | IntEntry, side: str, edge: float) -> FloatEntry | IntEntry:
    """With another edge; the same entry where nothing would be left, or nothing changes."""
    number = int(edge) if isinstance(entry, IntEntry) else edge
    changed = entry.model_copy(update={"low" if side == "lower" else "high": number})
    return changed if changed.low < changed.high else entry
