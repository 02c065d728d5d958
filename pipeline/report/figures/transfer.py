"""The finalists as they were searched, at twice the epochs, and on half of the data."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from pipeline.report.figures.rows import Interval, Series, rows_figure
from pipeline.report.figures.style import BLUE, PINK, RED, tick_format
from pipeline.transfer import DATA, EPOCHS, SEARCHED, Transfer

LOOKS = {EPOCHS: (RED, "square"), DATA: (PINK, "diamond")}
OFFSETS = {EPOCHS: 0.0, DATA: 0.22}
"""Of a row that holds three scores, from top to bottom; the first is that of the study itself."""


def transfer_figure(transfers: Sequence[Transfer]) -> go.Figure:
    """Each finalist's mean on the selection images under each condition, with its 95 % interval;
    the best of the study itself on top."""
    before = transfers[0].before
    names = [finalist.name for finalist in before.finalists]

    def points(scores: dict[str, Interval], offset: float) -> list[tuple[float, Interval | None]]:
        return [(row + offset, scores.get(name)) for row, name in enumerate(names)]

    series = [Series(SEARCHED, BLUE, "circle", points(before.scores(), -0.22))]
    for each in transfers:
        shown = points(each.after.scores(), OFFSETS[each.kind])
        series.append(Series(f"at {each.condition}", *LOOKS[each.kind], shown))
    figure = rows_figure(names, series, 130 + 54 * len(names))
    figure.update_xaxes(tickformat=tick_format(before.judged))
    figure.update_traces(hovertemplate="%{x}<extra></extra>")
    return figure
