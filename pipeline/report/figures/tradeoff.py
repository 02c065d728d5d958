"""Trials by two metrics at once, with the front and what is left of it on the selection images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from pipeline.report.figures.dots import Dot, scatters
from pipeline.report.figures.style import GREEN, INK, better, label, new_figure, tick_format
from pipeline.tradeoff import TradeOff


def trade_off_figure(
    shown: Sequence[Dot], xs: Mapping[int, float], found: TradeOff, other: str
) -> go.Figure:
    """The first metric upwards, another along.

    Args:
        shown: the trials; their values are the first metric.
        xs: trial's number -> the other metric, of those that have it.
        other: its name, one of the study's.
    """
    figure = new_figure(400)
    figure.add_traces(scatters(shown, xs))
    on_front = sorted((d for d in shown if d.number in found.front and d.number in xs), key=_value)
    figure.add_trace(
        go.Scatter(
            name="the front",
            x=[xs[dot.number] for dot in on_front],
            y=[dot.value for dot in on_front],
            mode="lines+markers",
            line={"color": GREEN, "width": 2},
            marker={"symbol": "circle-open", "size": 14, "color": GREEN, "line": {"width": 2}},
            hoverinfo="skip",
        )
    )
    index = found.metrics.index(other)
    judged = [offer for offer in found.offers if offer.selection]
    for number, offer in enumerate(judged, start=1):
        # By number: names would lie across dots and each other, and beyond the edge of a phone.
        figure.add_trace(
            go.Scatter(
                name=f"{number} {label(offer.name)}",
                x=[offer.selection[index].mean],
                y=[offer.selection[0].mean],
                text=[str(number)],
                textfont={"color": "#ffffff", "size": 11},
                mode="markers+text",
                marker={"symbol": "diamond", "size": 20, "color": INK, "opacity": 0.85},
                hovertemplate="%{fullData.name} on selection: %{y}, %{x}<extra></extra>",
            )
        )
    figure.update_layout(height=400 + 12 * len(judged))
    first = found.metrics[0]
    figure.update_xaxes(title={"text": better(other), "standoff": 4})
    figure.update_xaxes(tickformat=tick_format(other))
    figure.update_yaxes(title={"text": better(first)}, tickformat=tick_format(first))
    return figure


def _value(dot: Dot) -> float:
    return dot.value
