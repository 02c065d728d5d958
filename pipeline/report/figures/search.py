"""The search: its history, where in each range the good trials lie, and what matters."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from pipeline.analysis.importance import Importance
from pipeline.config.search_space import CategoricalEntry, SearchEntry
from pipeline.report.figures.dots import Dot, scatters
from pipeline.report.figures.style import BLUE, GREEN, GREY, SKY, label, new_figure, tick_format
from pipeline.training.metrics import is_better
from pipeline.words import short_name, spell


def history_figure(shown: Sequence[Dot], allowed: set[int], metric: str) -> go.Figure:
    """Every trial by its number, and the best so far.

    Args:
        allowed: the trials that may be the best: complete, and within the constraints.
    """
    figure = new_figure(360)
    figure.add_traces(scatters(shown, {dot.number: dot.number for dot in shown}))
    best: list[Dot] = []
    for dot in shown:
        if dot.number in allowed:
            better = not best or is_better(metric, dot.value, best[-1].value)
            best.append(dot if better else best[-1])
    numbers = [dot.number for dot in shown if dot.number in allowed]
    figure.add_trace(
        go.Scatter(
            name="best so far",
            x=numbers,
            y=[dot.value for dot in best],
            mode="lines",
            line={"shape": "hv", "color": GREEN, "width": 2},
            hoverinfo="skip",
        )
    )
    figure.update_xaxes(title={"text": "trial", "standoff": 4}, nticks=8)
    figure.update_yaxes(tickformat=tick_format(metric))
    return figure


def slice_figure(
    path: str, entry: SearchEntry, shown: Sequence[Dot], metric: str, span: tuple[float, float]
) -> go.Figure:
    """The trials along one setting, with the bounds of its range as dashed lines.

    Args:
        span: of the metric's axis, the same for all settings.
    """
    figure = new_figure(260)
    categorical = isinstance(entry, CategoricalEntry)
    drew = [dot for dot in shown if path in dot.params]
    at = {d.number: _choice(d.params[path]) if categorical else d.params[path] for d in drew}
    figure.add_traces(scatters(drew, at))
    if isinstance(entry, CategoricalEntry):
        order = [_choice(choice) for choice in entry.choices]
        figure.update_xaxes(type="category", categoryorder="array", categoryarray=order)
    else:
        for bound in (entry.low, entry.high):
            figure.add_shape(
                type="line",
                x0=bound,
                x1=bound,
                y0=0,
                y1=1,
                yref="paper",
                line={"dash": "dash", "color": GREY, "width": 1.5},
            )
        # "power" rather than SI prefixes: 10 to the -5 is not read as "10µ".
        axis = {"type": "log", "exponentformat": "power", "dtick": 1} if entry.log else {}
        figure.update_xaxes(nticks=5, **axis)
    figure.update_yaxes(tickformat=tick_format(metric), range=list(span), nticks=5)
    figure.update_layout(
        title={"text": label(short_name(path)), "font": {"size": 14}, "x": 0.02, "y": 0.98},
        margin={"l": 12, "r": 16, "t": 34, "b": 12},
        showlegend=False,
    )
    return figure


def importance_figure(importances: Sequence[Importance]) -> go.Figure:
    """Each setting's share, and how often chance alone would make it look as important."""
    figure = new_figure(80 + 32 * len(importances))
    figure.add_trace(
        go.Bar(
            orientation="h",
            x=[one.share for one in importances],
            y=[label(short_name(one.path)) for one in importances],
            text=[f"{one.share:.0%}, {_noise(one)}" for one in importances],
            textposition="outside",
            cliponaxis=False,
            marker={"color": [_colour(one) for one in importances]},
            hoverinfo="skip",
        )
    )
    highest = max((one.share for one in importances), default=1.0)
    figure.update_xaxes(range=[0, 2.2 * highest], showticklabels=False)
    figure.update_yaxes(autorange="reversed", type="category")
    return figure


def value_span(shown: Sequence[Dot]) -> tuple[float, float]:
    """From the lowest to the highest value, and a little more."""
    values = [dot.value for dot in shown] or [0.0, 1.0]
    room = 0.06 * (max(values) - min(values)) or 0.01
    return min(values) - room, max(values) + room


def _choice(value: object) -> str:
    return label(spell(value))  # type: ignore[arg-type]


def _noise(one: Importance) -> str:
    if one.p_value is None:
        return "too few trials"
    return f"p = {one.p_value:.2f}"


def _colour(one: Importance) -> str:
    return SKY if one.matters is None else BLUE if one.matters else GREY
