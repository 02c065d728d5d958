"""Finalists: their means with intervals, and their curves over the epochs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

import plotly.graph_objects as go

from pipeline.finalists import Finalist, Verdict
from pipeline.report.figures.style import BLUE, GREY, INK, RED, label, new_figure, tick_format

TRAIN, VALIDATION = "train/clean_accuracy", "validation/accuracy"
Curve = Mapping[int, float]


def intervals_figure(verdict: Verdict) -> go.Figure:
    """Each finalist's mean on the selection images with its 95 % interval, the best on top, and
    what the search had said of it."""
    shown = [f for f in verdict.finalists if f.selection is not None]
    figure = new_figure(120 + 36 * len(shown))
    names = [label(f.name) for f in shown]
    widths = [f.selection[1] for f in shown if f.selection]
    figure.add_trace(
        go.Scatter(
            name="on selection, 95 % interval",
            x=[f.selection[0] for f in shown if f.selection],
            y=names,
            error_x={"array": widths, "thickness": 2, "color": INK},
            mode="markers",
            marker={"size": 11, "color": [RED, *[BLUE] * (len(shown) - 1)]},
        )
    )
    scored = [f for f in shown if f.search_score is not None]
    figure.add_trace(
        go.Scatter(
            name="what the search said",
            x=[f.search_score for f in scored],
            y=[label(f.name) for f in scored],
            mode="markers",
            marker={"size": 10, "symbol": "diamond-open", "color": GREY},
        )
    )
    figure.update_xaxes(tickformat=tick_format(verdict.judged), nticks=6)
    figure.update_yaxes(autorange="reversed", type="category")
    figure.update_layout(legend={"y": -0.3 if len(shown) < 4 else -0.18})
    return figure


def curves_figure(
    finalist: Finalist, curves: Mapping[int, Mapping[str, Curve]], low: float
) -> go.Figure:
    """Training and validation accuracy over the epochs: each seed thin, their mean thick, and the
    generalization gap between the two shaded.

    Args:
        curves: of the trainings, by number.
        low: where the axis of the accuracy begins, the same for all finalists.
    """
    figure = new_figure(300)
    means = []
    for metric, name, colour in ((TRAIN, "training", RED), (VALIDATION, "validation", BLUE)):
        found = [curves.get(t.number, {}).get(metric, {}) for t in finalist.trainings]
        figure.add_traces([_thin(curve, colour) for curve in found])
        means.append(_mean(found, name, colour, shaded=metric == VALIDATION))
    figure.add_traces(means)  # side by side, since plotly shades down to the trace before
    figure.update_yaxes(tickformat=tick_format(VALIDATION), range=[low, 1.01])
    figure.update_xaxes(title={"text": "epoch", "standoff": 4}, rangemode="tozero", nticks=6)
    figure.update_layout(
        title={"text": label(finalist.name), "font": {"size": 14}, "x": 0.02, "y": 0.98},
        margin={"l": 12, "r": 12, "t": 34, "b": 12},
        legend={"y": -0.24},
    )
    return figure


def _thin(curve: Curve, colour: str) -> go.Scatter:
    epochs = sorted(curve)
    return go.Scatter(
        x=epochs,
        y=[curve[epoch] for epoch in epochs],
        mode="lines",
        line={"color": colour, "width": 1},
        opacity=0.4,
        showlegend=False,
        hoverinfo="skip",
    )


def _mean(curves: Sequence[Curve], name: str, colour: str, *, shaded: bool) -> go.Scatter:
    """Over the seeds, as far as all of them have come."""
    epochs = sorted(set.intersection(*(set(curve) for curve in curves))) if curves else []
    return go.Scatter(
        name=name,
        x=epochs,
        y=[fmean(curve[epoch] for curve in curves) for epoch in epochs],
        mode="lines+markers" if len(epochs) == 1 else "lines",
        line={"color": colour, "width": 3, "dash": "solid" if shaded else "dash"},
        fill="tonexty" if shaded and len(epochs) > 1 else "none",
        fillcolor="rgba(0,0,0,0.07)",
    )
