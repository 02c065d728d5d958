"""The study: Optuna on a relational store, the one authority on what has been tried."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, model_validator

from pipeline.settings import Settings
from pipeline.study.pruners import AnyPruner, MedianSettings
from pipeline.study.samplers import AnySampler, TpeSettings
from pipeline.training.metrics import METRICS, Metric, Objective

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]


class WarmStartSettings(Settings):
    """`study.warm_start:` - an earlier study whose trials this one begins with."""

    study: Name
    """Its name, in the same store."""
    ignore: list[str] = Field(default_factory=list)
    """Settings (dotted paths), or sections, that may differ: its trials are taken for trials with
    this study's, or with the nearest value that is searched."""


class StudySettings(Settings):
    """`study:` - what is sought, how long, and by which rules."""

    name: Name
    """Names the Optuna study and the MLflow experiment: letters, digits, `.`, `_` and `-`, at most
    100 in all, the first one a letter or a digit."""
    metric: Metric = "validation/accuracy"
    """What is optimized. Its direction follows from its name."""
    metrics: Annotated[list[Objective], Field(min_length=2, max_length=3)] | None = None
    """Two or three metrics in place of one: what is sought is the front, the trials that none
    beats in all of them. Nothing is pruned. The first one stops trainings early and decides who is
    the champion."""
    constraints: dict[str, float] = Field(default_factory=dict)
    """Metric -> the highest value it may have, or the lowest where more is better. Trials that keep
    all of these at their best epoch come before those that don't, and only they can win."""
    trials: Annotated[int, Field(ge=1, le=1_000_000)] = 50
    """Finished (complete or pruned) trials in the study, over all runs of it; baselines count."""
    warm_start: WarmStartSettings | None = None
    """The finished trials of an earlier study that fit are there from the start; they don't count
    towards `trials`."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Fixes the splits, the sampler and every trial's streams of chance."""
    sampler: AnySampler = TpeSettings(kind="tpe")
    """Which point is tried next."""
    pruner: AnyPruner = MedianSettings(kind="median")
    """Which trials are stopped early."""
    audit_fraction: Annotated[float, Field(ge=0, le=1)] = 0.05
    """The share of the trials that the pruner would stop which run on to their end, at least two in
    a study: they tell what pruning costs. 0 switches it off."""
    grace_sec: Annotated[float, Field(ge=1)] = 60.0
    """A trial whose worker was not heard of for so long is given to another."""
    checkpoint_sec: Annotated[float, Field(ge=0)] = 10.0
    """A running trial is saved at the first epoch's end after so long; 0: at every one."""
    max_consecutive_failures: Annotated[int, Field(ge=1)] = 5
    """So many failed trials in a row end the search."""

    @model_validator(mode="before")
    @classmethod
    def _follow_from_metrics(cls, data: Any) -> Any:
        """With several metrics, the first is `metric`, and no pruner is the default."""
        metrics = data.get("metrics") if isinstance(data, dict) else None
        if not isinstance(metrics, list) or not metrics:
            return data
        first = {"metric": metrics[0]} if metrics[0] in METRICS else {}
        return {**first, "pruner": {"kind": "none"}, **data}

    @property
    def objectives(self) -> tuple[str, ...]:
        """What is optimized: one metric, or several."""
        return (self.metric,) if self.metrics is None else tuple(self.metrics)
