"""Who trained what when."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from pipeline.report.curves import Attempt
from pipeline.report.figures.style import BLUE, GREEN, GREY, PINK, RED, SKY, label, new_figure

COLOURS = {
    "complete": BLUE,
    "pruned": GREY,
    "failed": RED,
    "given back": PINK,
    "running": GREEN,
    "follow-up": SKY,
}
NAMES = {
    "COMPLETE": "complete",
    "PRUNED": "pruned",
    "FAIL": "failed",
    "WAITING": "given back",
    "RUNNING": "running",
}


def timeline_figure(spans: Mapping[str, Sequence[Attempt]]) -> go.Figure:
    """A bar an attempt, a row a worker.

    Args:
        spans: `study`, or the kind of a follow-up -> its attempts.
    """
    attempts = [(kind, one) for kind, of_kind in spans.items() for one in of_kind]
    workers = sorted({one.worker for _, one in attempts}, key=lambda name: (len(name), name))
    figure = new_figure(130 + 34 * len(workers))
    for group, colour in COLOURS.items():
        own = [(kind, one) for kind, one in attempts if _group(kind, one) == group]
        if own:
            figure.add_trace(_bars(group, own, colour))
    figure.update_layout(barmode="overlay", bargap=0.25, showlegend=True)
    figure.update_layout(legend={"y": -0.4 if len(workers) < 4 else -0.2})
    figure.update_xaxes(type="date", nticks=4, tickangle=0)
    figure.update_yaxes(
        type="category", categoryorder="array", categoryarray=workers[::-1], showgrid=False
    )
    return figure


def _group(kind: str, one: Attempt) -> str:
    settled = one.state == "COMPLETE"
    return "follow-up" if kind != "study" and settled else NAMES.get(one.state, "running")


def _bars(group: str, own: Sequence[tuple[str, Attempt]], colour: str) -> go.Bar:
    return go.Bar(
        name=group,
        orientation="h",
        base=[one.started_ms for _, one in own],
        x=[max(one.ended_ms - one.started_ms, 1) for _, one in own],
        y=[label(one.worker) for _, one in own],
        text=[label(one.name) for _, one in own],
        textposition="none",
        hovertemplate="%{text}, %{customdata:.1f} s<extra></extra>",
        customdata=[(one.ended_ms - one.started_ms) / 1000 for _, one in own],
        marker={"color": colour, "line": {"color": "white", "width": 1 if len(own) < 60 else 0}},
    )
