"""What each regularizer of a trial is worth: within it, alone, and in pairs."""

from __future__ import annotations

import plotly.graph_objects as go

from pipeline.ablation import Ablation
from pipeline.report.figures.rows import Series, as_gains, in_unit, rows_figure
from pipeline.report.figures.style import BLUE, INK, PINK, RED, unit
from pipeline.words import describe, short_name

OFFSET = 0.14
"""A row holds two gains, one above and one below its middle."""


def ablation_figure(ablation: Ablation) -> go.Figure:
    """Effects and interactions with their 95 % intervals; right of the line at 0 is better."""
    effects, pairs = ablation.effects, ablation.interactions
    names = [describe({effect.path: effect.value}) for effect in effects]
    names += [f"{short_name(pair.first)} × {short_name(pair.second)}" for pair in pairs]
    names += ["all of them"] if ablation.total is not None else []
    factor, name_of_unit = unit(ablation.judged)
    within = [(row - OFFSET, in_unit(e.within, factor)) for row, e in enumerate(effects)]
    alone = [(row + OFFSET, in_unit(e.alone, factor)) for row, e in enumerate(effects)]
    together = [
        (len(effects) + row, in_unit(pair.interaction, factor)) for row, pair in enumerate(pairs)
    ]
    total = [(len(names) - 1, in_unit(ablation.total, factor))]
    series = (
        Series(f"in {ablation.reference}", BLUE, "circle", within),
        Series("alone", RED, "square", alone),
        Series("interaction", PINK, "diamond", together),
        Series("all of them", INK, "star", total),
    )
    return as_gains(rows_figure(names, series, 130 + 44 * len(names)), name_of_unit)
