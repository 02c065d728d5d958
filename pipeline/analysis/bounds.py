"""Are the bounds of a study's search right? Each finding with its evidence and its cure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from optuna.trial import FrozenTrial, TrialState

from pipeline.analysis.additive import Dimension
from pipeline.analysis.entries import cut, value_at, widened
from pipeline.analysis.evidence import Side
from pipeline.analysis.importance import MIN_TO_DISMISS, MIN_TRIALS, Importance
from pipeline.analysis.next_search import NextSearch
from pipeline.analysis.ranking import searched_trials
from pipeline.analysis.views import HINT, Views
from pipeline.config.run_config import RunConfig, off_values
from pipeline.config.search_space import CategoricalEntry, FloatEntry, SearchEntry, in_range, same
from pipeline.errors import UserError
from pipeline.settings import Scalar
from pipeline.study.carried import is_carried
from pipeline.words import spell

Kind = Literal[
    "edge_low",
    "edge_high",
    "limit_low",
    "limit_high",
    "ruinous_low",
    "ruinous_high",
    "poor_choices",
    "does_not_matter",
    "dropped",
    "too_few",
]


@dataclass(frozen=True)
class BoundsFinding:
    """One thing about a searched setting.

    Attributes:
        kind: `edge_*`: the best trials lie there, and the range was widened; `limit_*`: they do,
            but the setting goes no further; `ruinous_*`: a part was cut off; `poor_choices`: some
            were; `does_not_matter`: it was fixed, if it can be; `dropped`: it depends on a setting
            that was fixed at another value; `too_few`: it can't be told whether it matters.
        text: in words, as short as a comment in a file.
        entry: what is searched next; None where nothing changes or it is searched no more.
        fixed: the value that it has from now on; None where it is searched on, or dropped.
    """

    path: str
    kind: Kind
    text: str
    entry: SearchEntry | None = None
    fixed: Scalar | None = None


@dataclass(frozen=True)
class BoundsReport:
    """All findings of a study, and the search that follows from them.

    Attributes:
        importances: by metric of the study, of each setting.
        enough: how many finished trials of the study may do to tell of every setting; 0 where
            that has been told.
    """

    config: RunConfig
    num_trials: int
    importances: Mapping[str, list[Importance]]
    findings: list[BoundsFinding]
    next: NextSearch
    enough: int = 0

    @property
    def untold(self) -> list[str]:
        """The settings of which nothing can be told yet."""
        return [found.path for found in self.findings if found.kind == "too_few"]

    @property
    def is_changed(self) -> bool:
        """Whether the next search differs from the study's."""
        return self.next.entries != dict(self.config.search)


def examine_bounds(config: RunConfig, trials: Sequence[FrozenTrial]) -> BoundsReport:
    """Look at every searched setting, and make the next search.

    Args:
        config: the study's settings.
        trials: all of its trials, in any state.

    Raises:
        UserError: fewer than ten trials that the search drew are finished.
    """
    searched = [trial for trial in searched_trials(trials) if trial.params]
    if len(searched) < MIN_TRIALS:
        raise UserError(
            f"{len(searched)} trials of the study {config.study.name!r} are finished, beside the "
            "baselines",
            where="STUDY",
            rule=f"bounds are judged by at least {MIN_TRIALS} finished trials",
            cure="let the study go on, and ask again",
        )
    doctor = _Doctor(config, searched)
    findings = list(doctor.findings())
    found = {
        metric: [one for one in of_metric if one.path in config.search]
        for metric, of_metric in doctor.views.importances().items()
    }
    report = BoundsReport(config, len(searched), found, findings, doctor.next)
    return replace(report, enough=_enough(report, doctor, trials)) if report.untold else report


def _enough(report: BoundsReport, doctor: _Doctor, trials: Sequence[FrozenTrial]) -> int:
    """If every setting goes on being drawn as often as so far, and one never drawn in all trials.

    As `study.trials` counts them: baselines are among them, what was carried over is not.
    """
    missing = 0
    for path in report.untold:
        num = int(doctor.dims[path].active.sum()) if path in doctor.dims else 0
        rate = num / report.num_trials or 1.0
        missing = max(missing, math.ceil((MIN_TO_DISMISS - num) / rate))
    finished = (TrialState.COMPLETE, TrialState.PRUNED)
    return missing + sum(t.state in finished and not is_carried(t) for t in trials)


def _untold(num_trials: int) -> str:
    return f"can't be told by {num_trials} trial{'s' * (num_trials != 1)}"


class _Doctor:
    def __init__(self, config: RunConfig, trials: Sequence[FrozenTrial]) -> None:
        self.config, self.next = config, NextSearch(config)
        self.views = Views(trials, config.study.objectives)
        self.dims = self.views.dims

    def findings(self) -> Iterator[BoundsFinding]:
        for path in self.config.space.entries:  # parents first
            if path not in self.next.entries:
                yield BoundsFinding(path, "dropped", "what it depends on was fixed or left out")
            elif path in self.dims and self.dims[path].active.sum() >= MIN_TRIALS:
                yield from self._of(path, self.dims[path])
            else:
                num = int(self.dims[path].active.sum()) if path in self.dims else 0
                yield BoundsFinding(path, "too_few", _untold(num))

    def _of(self, path: str, dim: Dimension) -> Iterator[BoundsFinding]:
        matters, found = self.views.matters(path), []
        if isinstance(self.config.search[path], CategoricalEntry):
            found = list(self._choices(path)) if matters else []
        else:
            parts = self.views.ruinous(path)
            found = list(self._edges(path, parts)) if matters else []
            found += self._cuts(path, parts)
        yield from found
        if not found and matters is False:
            yield self._irrelevant(path)
        elif not found and matters is None:
            yield BoundsFinding(path, "too_few", _untold(int(dim.active.sum())))

    def _edges(self, path: str, parts: Mapping[Side, tuple[float, int]]) -> Iterator[BoundsFinding]:
        sound = (parts.get("low", (0.0, 0))[0], parts.get("high", (1.0, 0))[0])
        for side, metric in self.views.edges(path, sound):
            by = f" by {metric}" if self.config.study.metrics else ""
            yield from self._widen(path, side, f"the best trials{by} lie at its")

    def _widen(self, path: str, side: Side, words: str) -> Iterator[BoundsFinding]:
        entry, off = self.next.entries[path], off_values().get(path)
        if isinstance(entry, CategoricalEntry):
            return
        if side == "low" and off is not None and same(entry.low, off):
            yield BoundsFinding(path, "limit_low", f"the best value is {spell(off)}: off")
            return
        nothing = off if isinstance(off, int | float) else None
        wider = widened(entry, side, lambda new: self.next.accepts(path, new), nothing)
        text = f"{words} {'upper' if side == 'high' else 'lower'} edge"
        if wider is None or not self.next.replace(path, wider):
            kind: Kind = "limit_high" if side == "high" else "limit_low"
            yield BoundsFinding(path, kind, f"{text}, and the setting goes no further")
        else:
            kind = "edge_high" if side == "high" else "edge_low"
            yield BoundsFinding(path, kind, text, self.next.entries[path])

    def _cuts(self, path: str, parts: Mapping[Side, tuple[float, int]]) -> Iterator[BoundsFinding]:
        entry = self.config.search[path]
        assert not isinstance(entry, CategoricalEntry)
        for side, (start, num) in parts.items():
            shorter = cut(entry, side, start)
            if shorter is None:
                continue
            bound = getattr(shorter, side)
            new = self.next.entries[path].model_copy(update={side: bound})
            if self.next.replace(path, new):
                where = "up" if side == "high" else "down"
                poor = "poor or broke a constraint" if self.config.study.constraints else "poor"
                text = f"all {num} trials from {spell(value_at(entry, start))} {where} were {poor}"
                kind: Kind = "ruinous_high" if side == "high" else "ruinous_low"
                yield BoundsFinding(path, kind, text, self.next.entries[path])

    def _choices(self, path: str) -> Iterator[BoundsFinding]:
        entry = self.next.entries[path]
        assert isinstance(entry, CategoricalEntry)
        own = self.config.values().get(path)  # a baseline of the next study, so a point of it
        drawn = self.dims[path].distribution.choices  # type: ignore[union-attr]
        poor = [drawn[i] for i in self.views.poor_choices(path)]
        out = [c for c in entry.choices if any(same(c, p) for p in poor) and not same(c, own)]
        left = [choice for choice in entry.choices if choice not in out]
        new = entry.model_copy(update={"choices": left})
        if out and len(left) >= 2 and self.next.replace(path, new):
            text = f"no trial with {' or '.join(map(spell, out))} was in the better half"
            yield BoundsFinding(path, "poor_choices", text, self.next.entries[path])

    def _irrelevant(self, path: str) -> BoundsFinding:
        """Fixed at its off value, or the best trial's; searched on where neither is possible."""
        one = self.views.clearest(path)
        text = f"no effect of it can be told from {one.num_trials} trials"
        for value in self._values_to_fix(path, one):
            if self.next.fix(path, value):
                return BoundsFinding(path, "does_not_matter", text, fixed=value)
        return BoundsFinding(
            path, "does_not_matter", f"{text}, but it can't be fixed for all kinds"
        )

    def _values_to_fix(self, path: str, one: Importance) -> Iterator[Scalar]:
        entry, off = self.config.search[path], off_values().get(path)
        # A log scale has no 0: its low end stands for it, as in the baselines.
        reached = off is not None and (
            in_range(entry, off) or (not isinstance(entry, CategoricalEntry) and entry.log)
        )
        if off is not None and reached and (one.p_value or 0) > HINT:
            yield off
        best = next(trial.params[path] for trial in self.views.best_first if path in trial.params)
        if isinstance(entry, FloatEntry) and entry.step is None:
            best = min(max(float(f"{best:.3g}"), entry.low), entry.high)  # it makes no difference
        yield best
