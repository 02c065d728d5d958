"""Values with their intervals, a row each or a few side by side: what ablation, transfer check and
champion have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

from pipeline.report.figures.style import GREY, label, new_figure

Interval = tuple[float, float]
"""A value, and half the width of its interval."""


@dataclass(frozen=True)
class Series:
    """Values of one kind.

    Args:
        points: row, from 0, with a fraction where rows hold several -> value; None is left out.
    """

    name: str
    colour: str
    symbol: str
    points: Sequence[tuple[float, Interval | None]]


def rows_figure(names: Sequence[str], series: Sequence[Series], height: int) -> go.Figure:
    """The first name on top; series without any value are left out."""
    figure = new_figure(height)
    for one in series:
        there = [(row, value) for row, value in one.points if value is not None]
        if there:
            figure.add_trace(
                go.Scatter(
                    name=label(one.name),
                    x=[value[0] for _, value in there],
                    y=[row for row, _ in there],
                    error_x={"array": [value[1] for _, value in there], "thickness": 2},
                    mode="markers",
                    marker={"color": one.colour, "symbol": one.symbol, "size": 10},
                    hovertemplate="%{x}<extra></extra>",
                )
            )
    figure.update_yaxes(
        tickmode="array",
        tickvals=list(range(len(names))),
        ticktext=[label(name) for name in names],
        range=[len(names) - 0.5, -0.5],
        zeroline=False,
    )
    figure.update_xaxes(zeroline=False, nticks=6)
    figure.update_layout(legend={"y": -0.22})
    return figure


def as_gains(figure: go.Figure, unit: str) -> go.Figure:
    """The same figure with a line at 0, right of which is better."""
    figure.add_shape(
        type="line", x0=0, x1=0, y0=0, y1=1, yref="paper", line={"color": GREY, "width": 1.5}
    )
    figure.update_xaxes(title={"text": f"gain in {unit}", "standoff": 4})
    figure.update_traces(hovertemplate="%{x:.2f}<extra></extra>")
    return figure


def in_unit(gain: Interval | None, factor: float) -> Interval | None:
    """A gain in the unit that it is read in (see `style.unit`)."""
    return None if gain is None else (factor * gain[0], factor * gain[1])
