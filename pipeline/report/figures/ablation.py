"""What each regularizer of a trial is worth: within it, alone, and in pairs."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from pipeline.ablation import Ablation
from pipeline.answers import Gain
from pipeline.report.figures.style import BLUE, GREY, INK, PINK, RED, label, new_figure, unit
from pipeline.words import describe, short_name

OFFSET = 0.14
"""A row holds two gains, one above and one below its middle."""


def ablation_figure(ablation: Ablation) -> go.Figure:
    """Effects and interactions with their 95 % intervals; right of the line at 0 is better."""
    effects, pairs = ablation.effects, ablation.interactions
    names = [describe({effect.path: effect.value}) for effect in effects]
    names += [f"{short_name(pair.first)} × {short_name(pair.second)}" for pair in pairs]
    names += ["all of them"] if ablation.total is not None else []
    figure = new_figure(130 + 44 * len(names))
    factor, name_of_unit = unit(ablation.judged)
    within = [(row - OFFSET, effect.within) for row, effect in enumerate(effects)]
    alone = [(row + OFFSET, effect.alone) for row, effect in enumerate(effects)]
    together = [(len(effects) + row, pair.interaction) for row, pair in enumerate(pairs)]
    _add(figure, f"in {ablation.reference}", within, BLUE, "circle", factor)
    _add(figure, "alone", alone, RED, "square", factor)
    _add(figure, "interaction", together, PINK, "diamond", factor)
    _add(figure, "all of them", [(len(names) - 1, ablation.total)], INK, "star", factor)
    figure.add_shape(
        type="line", x0=0, x1=0, y0=0, y1=1, yref="paper", line={"color": GREY, "width": 1.5}
    )
    figure.update_yaxes(
        tickmode="array",
        tickvals=list(range(len(names))),
        ticktext=[label(name) for name in names],
        range=[len(names) - 0.5, -0.5],
        zeroline=False,
    )
    title = {"text": f"gain in {name_of_unit}", "standoff": 4}
    figure.update_xaxes(title=title, zeroline=False, nticks=6)
    figure.update_layout(legend={"y": -0.22})
    return figure


def _add(
    figure: go.Figure,
    name: str,
    gains: Sequence[tuple[float, Gain | None]],
    colour: str,
    symbol: str,
    factor: float,
) -> None:
    there = [(row, gain) for row, gain in gains if gain is not None]
    if there:
        figure.add_trace(
            go.Scatter(
                name=name,
                x=[factor * gain[0] for _, gain in there],
                y=[row for row, _ in there],
                error_x={"array": [factor * gain[1] for _, gain in there], "thickness": 2},
                mode="markers",
                marker={"color": colour, "symbol": symbol, "size": 10},
                hovertemplate="%{x:.2f}<extra></extra>",
            )
        )
