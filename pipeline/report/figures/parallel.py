"""Parallel coordinates: all settings of each trial on one line.

Drawn as lines in place of plotly's own `parcoords`, which needs WebGL, can't tell pruned trials
from others and leaves out those that lack a conditional setting.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from pipeline.analysis.additive import position
from pipeline.config.search_space import CategoricalEntry, SearchEntry
from pipeline.report.figures.dots import Dot
from pipeline.report.figures.style import BLUE, GREY, ORANGE, SKY, label, new_figure
from pipeline.training.metrics import direction
from pipeline.words import short_name, show_metric, spell

BEST_SHARE = 0.2


def parallel_figure(
    entries: Mapping[str, SearchEntry], shown: Sequence[Dot], metric: str
) -> go.Figure:
    """One line a trial through its settings, each from its low bound to its high one, to its value
    of the metric on the right. A setting that a trial didn't have is a gap in its line."""
    figure = new_figure(400)
    values = [dot.value for dot in shown]
    low, high = min(values), max(values)
    for name, own, line in _groups(shown, metric):
        xs: list[float | None] = []
        ys: list[float | None] = []
        for dot in own:
            heights = [_height(entries[path], dot.params.get(path)) for path in entries]
            xs += [*range(len(entries) + 1), None]
            ys += [*heights, (dot.value - low) / ((high - low) or 1.0), None]
        if own:
            trace = go.Scatter(name=name, x=xs, y=ys, mode="lines", line=line, hoverinfo="skip")
            figure.add_trace(trace)
    for at, (path, entry) in enumerate(entries.items()):
        _axis(figure, at, _ticks(entry), short_name(path))
    ends = [(0.0, show_metric(metric, low)), (1.0, show_metric(metric, high))]
    _axis(figure, len(entries), ends, metric)
    figure.update_xaxes(
        tickmode="array",
        tickvals=list(range(len(entries) + 1)),
        ticktext=[_wrapped(label(short_name(path))) for path in (*entries, metric)],
        range=[-0.35, len(entries) + 0.35],
        showgrid=False,
        showline=False,
        tickfont={"size": 11},
        tickangle=0 if len(entries) < 6 else None,
    )
    figure.update_yaxes(visible=False, range=[-0.12, 1.12])
    return figure


def _groups(shown: Sequence[Dot], metric: str) -> list[tuple[str, list[Dot], dict[str, object]]]:
    """What is drawn first is covered by the rest."""
    drawn = [dot for dot in shown if dot.kind not in ("baseline", "pruned")]
    drawn.sort(key=lambda dot: dot.value, reverse=direction(metric) == "maximize")
    num_best = max(1, round(BEST_SHARE * len(drawn)))
    pruned = [dot for dot in shown if dot.kind == "pruned"]
    baselines = [dot for dot in shown if dot.kind == "baseline"]
    return [
        ("pruned", pruned, {"color": GREY, "width": 1, "dash": "dot"}),
        ("complete", drawn[num_best:], {"color": SKY, "width": 1}),
        ("baselines (nearest point)", baselines, {"color": ORANGE, "width": 2, "dash": "dash"}),
        ("the best fifth", drawn[:num_best], {"color": BLUE, "width": 2.5}),
    ]


def _height(entry: SearchEntry, value: float | str | bool | None) -> float | None:
    if value is None:
        return None
    at = position(entry.distribution(), value)  # type: ignore[arg-type]
    return at / (len(entry.choices) - 1) if isinstance(entry, CategoricalEntry) else at


def _ticks(entry: SearchEntry) -> list[tuple[float, str]]:
    if isinstance(entry, CategoricalEntry):
        last = len(entry.choices) - 1
        return [(i / last, spell(choice)) for i, choice in enumerate(entry.choices)]
    return [(0.0, spell(entry.low)), (1.0, spell(entry.high))]


def _axis(figure: go.Figure, at: int, ticks: Sequence[tuple[float, str]], name: str) -> None:
    figure.add_shape(
        type="line", x0=at, x1=at, y0=0, y1=1, line={"color": "#555555", "width": 1}, name=name
    )
    for height, text in ticks:
        shift = {0.0: -9, 1.0: 9}.get(height, 0)
        figure.add_annotation(
            x=at,
            y=height,
            text=label(text),
            showarrow=False,
            yshift=shift,
            font={"size": 11},
            bgcolor="rgba(255,255,255,0.7)",
        )


def _wrapped(name: str) -> str:
    """Long names on two lines, at an underscore or a dot."""
    return (
        name
        if len(name) < 10
        else name.replace("_", "_<br>").replace(".", ".<br>").replace("/", "/<br>")
    )
