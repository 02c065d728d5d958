"""A study's trials as dots: which kind each is, and how that kind is drawn."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import plotly.graph_objects as go
from optuna.trial import FrozenTrial, TrialState

from pipeline.report.figures.style import BLUE, GREY, INK, ORANGE, PINK, SKY, label
from pipeline.settings import Scalar
from pipeline.study.audit import would_prune
from pipeline.study.carried import CARRIED_FROM
from pipeline.study.trials import BASELINE
from pipeline.words import describe

Kind = Literal["complete", "pruned", "audited", "carried over", "baseline"]

MARKERS: Mapping[Kind, Mapping[str, object]] = {
    "complete": {"symbol": "circle", "color": BLUE, "size": 8},
    "pruned": {"symbol": "x-thin", "color": GREY, "size": 8, "line": {"width": 2, "color": GREY}},
    "audited": {"symbol": "star", "color": PINK, "size": 12},
    "carried over": {"symbol": "circle-open", "color": SKY, "size": 8, "line": {"width": 2}},
    "baseline": {
        "symbol": "square",
        "color": ORANGE,
        "size": 11,
        "line": {"width": 1, "color": INK},
    },
}
"""By shape as well as by colour."""


@dataclass(frozen=True)
class Dot:
    """A finished trial.

    Attributes:
        value: of the study's metric: at its best epoch, or where it was pruned its last.
        params: what the sampler drew.
    """

    number: int
    kind: Kind
    value: float
    params: Mapping[str, Scalar]
    text: str


def dots(trials: Sequence[FrozenTrial]) -> list[Dot]:
    """The trials that have a finite value, by number."""
    found = []
    for trial in sorted(trials, key=lambda t: t.number):
        value = trial.value
        if trial.state == TrialState.PRUNED and trial.intermediate_values:
            value = trial.intermediate_values[max(trial.intermediate_values)]
        if trial.state.is_finished() and value is not None and math.isfinite(value):
            kind = _kind(trial)
            found.append(Dot(trial.number, kind, value, trial.params, _text(trial, kind)))
    return found


def _kind(trial: FrozenTrial) -> Kind:
    if BASELINE in trial.user_attrs:
        return "baseline"
    if CARRIED_FROM in trial.user_attrs:
        return "carried over"
    if would_prune(trial) is not None:
        return "audited"
    return "pruned" if trial.state == TrialState.PRUNED else "complete"


def _text(trial: FrozenTrial, kind: Kind) -> str:
    name = str(trial.user_attrs.get(BASELINE, kind))
    return label(f"trial {trial.number}, {name}: {describe(trial.params)}")


def scatters(shown: Sequence[Dot], xs: Mapping[int, object]) -> list[go.Scatter]:
    """One trace a kind of trial.

    Args:
        xs: trial's number -> where it is; those without are left out.
    """
    traces = []
    for kind, marker in MARKERS.items():
        own = [dot for dot in shown if dot.kind == kind and dot.number in xs]
        if own:
            traces.append(
                go.Scatter(
                    name=kind,
                    x=[xs[dot.number] for dot in own],
                    y=[dot.value for dot in own],
                    text=[dot.text for dot in own],
                    hovertemplate="%{y}<br>%{text}<extra></extra>",
                    mode="markers",
                    marker=dict(marker),
                )
            )
    return traces
