"""What each of the winner's settings is worth: within the winner, alone, and in pairs."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from pipeline.ablation import Ablation, Gain
from pipeline.report.figures.style import BLUE, GREY, INK, PINK, RED, label, new_figure, unit
from pipeline.words import describe, short_name


def ablation_figure(ablation: Ablation) -> go.Figure:
    """Effects and interactions with their 95 % intervals; right of the line at 0 is better."""
    names = [label(describe({effect.path: effect.value})) for effect in ablation.effects]
    pairs = [
        label(f"{short_name(i.first)} × {short_name(i.second)}") for i in ablation.interactions
    ]
    figure = new_figure(130 + 46 * (len(names) + len(pairs) + (ablation.total is not None)))
    within = [(n, e.within) for n, e in zip(names, ablation.effects, strict=True)]
    alone = [(n, e.alone) for n, e in zip(names, ablation.effects, strict=True)]
    both = [(n, i.interaction) for n, i in zip(pairs, ablation.interactions, strict=True)]
    factor, _ = unit(ablation.judged)
    _add(figure, "in the winner", within, BLUE, "circle", factor)
    _add(figure, "alone", alone, RED, "square", factor)
    _add(figure, "interaction", both, PINK, "diamond", factor)
    _add(figure, "all of them", [("all of them", ablation.total)], INK, "star", factor)
    figure.add_shape(
        type="line", x0=0, x1=0, y0=0, y1=1, yref="paper", line={"color": GREY, "width": 1.5}
    )
    order = [*names, *pairs, *(["all of them"] if ablation.total is not None else [])]
    figure.update_yaxes(
        type="category", categoryorder="array", categoryarray=order[::-1], tickson="labels"
    )
    title = {"text": f"gain in {unit(ablation.judged)[1]}", "standoff": 4}
    figure.update_xaxes(title=title, zeroline=False, nticks=6)
    figure.update_layout(scattermode="group", scattergap=0.5, legend={"y": -0.22})
    return figure


def _add(
    figure: go.Figure,
    name: str,
    gains: Sequence[tuple[str, Gain | None]],
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
            )
        )
