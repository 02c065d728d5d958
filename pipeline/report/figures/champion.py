"""What an ensemble or a refit gains over the best single training."""

from __future__ import annotations

from collections.abc import Mapping

import plotly.graph_objects as go

from pipeline.answers import Gain
from pipeline.report.figures.rows import Series, as_gains, in_unit, rows_figure
from pipeline.report.figures.style import BLUE, unit


def gains_figure(gains: Mapping[str, Gain], judged: str) -> go.Figure:
    """By name, each with its 95 % interval; right of the line at 0 is better."""
    factor, name_of_unit = unit(judged)
    points = [(row, in_unit(gain, factor)) for row, gain in enumerate(gains.values())]
    series = Series("over the best single training", BLUE, "circle", points)
    figure = as_gains(rows_figure(list(gains), [series], 130 + 44 * len(gains)), name_of_unit)
    figure.update_layout(showlegend=False)
    return figure
