"""How all figures look: colours that are told apart with any eyes (Okabe & Ito), and legends
below, where they take no width from a phone."""

from __future__ import annotations

from html import escape

import plotly.graph_objects as go

from pipeline.training.metrics import direction
from pipeline.words import is_share

BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"
PINK, SKY, GREY, INK = "#CC79A7", "#56B4E9", "#767676", "#222222"
PALETTE = (BLUE, RED, GREEN, PINK, ORANGE, SKY, INK, GREY)

MARGIN = {"l": 12, "r": 16, "t": 16, "b": 12}


def new_figure(height: int, **layout: object) -> go.Figure:
    """An empty figure of the report's look; as wide as its place."""
    figure = go.Figure()
    figure.update_layout(
        template="plotly_white",
        height=height,
        margin=MARGIN,
        font={"family": "system-ui, sans-serif", "size": 13, "color": INK},
        colorway=PALETTE,
        legend={"orientation": "h", "yanchor": "top", "y": -0.16, "x": 0},
        hoverlabel={"align": "left"},
        **layout,
    )
    figure.update_xaxes(
        automargin=True, showline=True, linecolor="#bbbbbb", title={"font": {"size": 13}}
    )
    figure.update_yaxes(
        automargin=True, showline=True, linecolor="#bbbbbb", title={"font": {"size": 13}}
    )
    return figure


def tick_format(metric: str) -> str:
    """Shares are read in per cent, losses as they are, with as many digits as the ticks need: four
    at most, without zeros at the end."""
    return ".4~p" if is_share(metric) else ".4~g"


def better(metric: str) -> str:
    """The title of a metric's axis, with the way to go."""
    return f"{metric} ({'less' if direction(metric) == 'minimize' else 'more'} is better)"


def label(text: str) -> str:
    """A name as plotly shows it: plotly reads tags in its texts."""
    return escape(text, quote=False)


def unit(metric: str) -> tuple[float, str]:
    """The factor and the name by which differences of a metric are read: points of a share."""
    return (100.0, "points") if is_share(metric) else (1.0, metric)
