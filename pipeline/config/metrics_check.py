"""What can't be had in a search by several metrics."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.config.problems import Problem
from pipeline.study import StudySettings
from pipeline.training.metrics import METRICS


def check_metrics(study: StudySettings) -> Iterator[Problem]:
    """What is wrong between `study.metrics` and the rest of `study:`."""
    metrics = study.metrics
    if metrics is None:
        return
    if len(set(metrics)) < len(metrics):
        yield _problem(
            "metrics",
            f"`study.metrics` names {next(m for m in metrics if metrics.count(m) > 1)} twice",
            "two or three different metrics",
            "delete one of them",
        )
    if metrics[0] not in METRICS:
        yield _problem(
            "metrics",
            f"`study.metrics` begins with {metrics[0]}",
            f"the first one stops trainings early and names the champion: {', '.join(METRICS)}",
            "put one of these first",
        )
    elif study.metric != metrics[0]:
        yield _problem(
            "metric",
            f"`study.metric` is {study.metric}, but `study.metrics` begins with {metrics[0]}",
            "a study has one metric, or several",
            "delete `study.metric`",
        )
    if study.pruner.kind != "none":
        yield _problem(
            "pruner",
            f"`study.pruner` is {study.pruner.kind}, but the search has {len(metrics)} metrics",
            "pruning goes by one curve, and would stop trials that are good by another metric",
            "delete `study.pruner`, or search by one metric",
        )
    if study.sampler.kind == "cma_es":
        yield _problem(
            "sampler",
            f"`study.sampler` is cma_es, but the search has {len(metrics)} metrics",
            "CMA-ES optimizes one metric; tpe, gp, random and qmc take several",
            "take `tpe`, or search by one metric",
        )


def _problem(key: str, what: str, rule: str, cure: str) -> Problem:
    return Problem(("study", key), what, rule=rule, cure=cure)
