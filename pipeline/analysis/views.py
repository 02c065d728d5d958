"""What the trials say of a setting, by the one metric of a search or by all of several.

Of several, a setting matters if it does for one of them, its range goes on where the best trials by
one of them lie at an edge, and nothing is cut off that is good by any.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from optuna.trial import FrozenTrial

from pipeline.analysis.additive import AdditiveModel, Dimension, dimensions
from pipeline.analysis.evidence import MAX_PART, MIN_LEFT, Side, edge, poor_choices, ruinous_part
from pipeline.analysis.importance import Importance, importance
from pipeline.analysis.ranking import Floats, ranks
from pipeline.study.front import by_metric
from pipeline.training.metrics import direction

HINT = 0.2
"""A p-value up to here hints at an effect. Without proof of one, a setting with a hint is fixed at
the best trial's value and not switched off."""


@dataclass(frozen=True)
class View:
    """By one metric: how much each setting matters, and where in its range the good trials lie."""

    metric: str
    importances: Mapping[str, Importance]
    ranks: Floats
    model: AdditiveModel

    @classmethod
    def of(cls, trials: Sequence[FrozenTrial], metric: str, dims: Sequence[Dimension]) -> View:
        """Of finished trials, whose value is this metric."""
        towards = direction(metric)
        ranked = ranks(trials, towards)
        found = {one.path: one for one in importance(trials, towards)}
        return cls(metric, found, ranked, AdditiveModel(list(dims), ranked))

    def ruinous(self, dim: Dimension, side: Side, room: float) -> tuple[float, int] | None:
        """Where the ruinous part of a range begins, as a share of it, and how many trials were in
        it; at most `room` of the range."""
        return ruinous_part(dim, self.model.adjusted(dim), self.ranks, side, room)


class Views:
    """By all metrics of a study.

    Args:
        trials: finished, of the search alone.
        metrics: of the study.
    """

    def __init__(self, trials: Sequence[FrozenTrial], metrics: Sequence[str]) -> None:
        self.dims = {dim.path: dim for dim in dimensions(trials)}
        dims = list(self.dims.values())
        if len(metrics) == 1:
            self.views = [View.of(trials, metrics[0], dims)]
        else:
            self.views = [View.of([by_metric(t, m) for t in trials], m, dims) for m in metrics]
        self.best_first = [trials[i] for i in self.views[0].ranks.argsort(kind="stable")]
        """By the first metric."""

    def importances(self) -> dict[str, list[Importance]]:
        """By metric, those that matter first."""
        return {view.metric: list(view.importances.values()) for view in self.views}

    def matters(self, path: str) -> bool | None:
        """Whether it does by any metric; None where some can't tell and none says so."""
        told = [view.importances[path].matters for view in self.views]
        return True if True in told else None if None in told else False

    def clearest(self, path: str) -> Importance:
        """By the metric that is the surest of an effect."""
        found = (view.importances[path] for view in self.views)
        return min(found, key=lambda one: one.p_value or 0)

    def ruinous(self, path: str) -> dict[Side, tuple[float, int]]:
        """The parts of a number's range that are ruinous by all metrics, by side: where each
        begins, how many trials were in it.

        A setting without a hint of an effect has none: a few trials of the search's beginning are
        easily all poor.
        """
        if any((view.importances[path].p_value or 0) > HINT for view in self.views):
            return {}
        dim, parts = self.dims[path], dict[Side, tuple[float, int]]()
        lows = [view.ruinous(dim, "low", MAX_PART) for view in self.views]
        if known := [low for low in lows if low]:
            parts |= {"low": min(known)} if len(known) == len(lows) else {}
        room = min(MAX_PART, 1 - MIN_LEFT - parts.get("low", (0.0, 0))[0])
        highs = [view.ruinous(dim, "high", room) for view in self.views]
        if known := [high for high in highs if high]:
            parts |= {"high": max(known)} if len(known) == len(highs) else {}
        return parts

    def edges(self, path: str, sound: tuple[float, float]) -> Iterator[tuple[Side, str]]:
        """The sides of a number's range at which the best trials lie, each with the first metric
        by which they do and it matters.

        Args:
            sound: from where to where the range is not ruinous, as shares of it.
        """
        dim, seen = self.dims[path], set[Side]()
        for view in self.views:
            side = edge(dim, view.model.adjusted(dim), sound)
            if view.importances[path].matters and side is not None and side not in seen:
                seen.add(side)
                yield side, view.metric

    def poor_choices(self, path: str) -> list[int]:
        """The choices, by place, that are poor by all metrics."""
        dim = self.dims[path]
        found = (set(poor_choices(dim, view.model.adjusted(dim))) for view in self.views)
        return sorted(set.intersection(*found))
