"""What pruning cost: how trials ended that the pruner would have stopped (see `study.audit`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median, quantiles

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from pipeline.analysis.strength import strength
from pipeline.config.run_config import RunConfig
from pipeline.statistics import wilson_interval
from pipeline.study.audit import would_prune
from pipeline.study.carried import is_carried
from pipeline.study.constraints import is_feasible
from pipeline.study.pruners import PrunerSettings, ThresholdSettings
from pipeline.study.trials import value_of
from pipeline.training.metrics import direction, is_better

ADVICE_TAG = "regsearch.pruning_audit"


@dataclass(frozen=True)
class FalsePrune:
    """A trial that ended better than the median of the others, though the pruner would have stopped
    it.

    Attributes:
        epoch: when the pruner first wanted to, from 1.
        value: the metric at its best epoch.
        is_best: it ended better than the best of the others that keeps the constraints.
        is_costly: it ended better than three quarters of the others. A trial that is a little
            better than the median is one that the pruner may well drop: where curves are fair too,
            chance puts some of those that it drops there.
        doubtful_until: the last epoch at which it looked like one to stop (see `audit`); 0: never.
    """

    number: int
    epoch: int
    value: float
    is_best: bool
    is_costly: bool
    doubtful_until: int


@dataclass(frozen=True)
class Half:
    """The audited trials of one half by strength: how many, and how many of them false prunes."""

    num_audited: int
    num_false: int


@dataclass(frozen=True)
class Audit:
    """What the audit found.

    Attributes:
        num_audited: trials that ran to their end though the pruner would have stopped them.
        num_pruned: trials that it did stop.
        false_prunes: by number.
        regret: by how much the best audited trial is better than the best of the others, of those
            that keep the constraints, in the metric's unit; 0 where it is not.
        share: of false prunes among the audited, with `interval`, its 95 % Wilson interval; None
            without an audited trial.
        weaker, stronger: the audited trials with less and with more regularization than their
            median, a middle one among the latter; None where no regularizer is searched.
        advice: one line.
    """

    num_audited: int
    num_pruned: int
    false_prunes: tuple[FalsePrune, ...]
    regret: float
    share: float | None
    interval: tuple[float, float] | None
    weaker: Half | None
    stronger: Half | None
    advice: str

    def metrics(self) -> dict[str, float]:
        """As metrics of MLflow; none where the pruner wanted to stop no trial."""
        if not self.num_audited + self.num_pruned:
            return {}
        return {
            "pruning/audited": float(self.num_audited),
            "pruning/false_prunes": float(len(self.false_prunes)),
            "pruning/regret": self.regret,
        }

    def tags(self) -> dict[str, str]:
        """As tags of MLflow: the advice."""
        return {ADVICE_TAG: self.advice} if self.metrics() else {}


def audit(trials: Sequence[FrozenTrial], config: RunConfig) -> Audit:
    """How the audited trials ended, beside "the others": the complete ones that were not audited.

    The curves are replayed by the pruner's rule: up to which epoch a false prune's best value so
    far fell short of the others' at that epoch (their median, or the percentile that the pruner
    keeps), or its value left the pruner's band. The others are those of the finished study, more
    than there were when the pruner decided. A trial that breaks the constraints is no false prune,
    since it can't win.

    Args:
        trials: of a study, in any states; audited ones count once they are complete. Those that it
            has from another study play no part: its pruner did not decide about them.
    """
    own = [trial for trial in trials if not is_carried(trial)]
    complete = [trial for trial in own if trial.state == TrialState.COMPLETE]
    audited = [trial for trial in complete if would_prune(trial) is not None]
    others = [trial for trial in complete if would_prune(trial) is None]
    found = tuple(_false_prunes(audited, others, config))
    weaker, stronger = _halves(audited, found, config)
    num_pruned = sum(trial.state == TrialState.PRUNED for trial in own)
    n = len(audited)
    return Audit(
        num_audited=n,
        num_pruned=num_pruned,
        false_prunes=found,
        regret=_regret(audited, others, config.study.metric),
        share=len(found) / n if n else None,
        interval=wilson_interval(len(found), n) if n else None,
        weaker=weaker,
        stronger=stronger,
        advice=_advice(found, n, num_pruned, config),
    )


def _false_prunes(
    audited: Sequence[FrozenTrial], others: Sequence[FrozenTrial], config: RunConfig
) -> list[FalsePrune]:
    metric = config.study.metric
    if not others:
        return []
    values = sorted(map(value_of, others))
    middle, best = median(values), _best(list(filter(is_feasible, others)), metric)
    quarters = quantiles(values, method="inclusive") if len(values) > 1 else values
    upper = quarters[-1] if direction(metric) == "maximize" else quarters[0]
    return [
        FalsePrune(
            number=trial.number,
            epoch=would_prune(trial) or 0,
            value=value_of(trial),
            is_best=best is None or is_better(metric, value_of(trial), best),
            is_costly=is_better(metric, value_of(trial), upper),
            doubtful_until=_doubtful_until(trial, others, config.study.pruner, metric),
        )
        for trial in sorted(audited, key=lambda trial: trial.number)
        if is_feasible(trial) and is_better(metric, value_of(trial), middle)
    ]


def _best(trials: Sequence[FrozenTrial], metric: str) -> float | None:
    values = map(value_of, trials)
    best = max if direction(metric) == "maximize" else min
    return best(values, default=None)


def _regret(audited: Sequence[FrozenTrial], others: Sequence[FrozenTrial], metric: str) -> float:
    ours, theirs = (
        _best(list(filter(is_feasible, trials)), metric) for trials in (audited, others)
    )
    if ours is None or theirs is None:
        return 0.0
    gain = ours - theirs
    return max(0.0, gain if direction(metric) == "maximize" else -gain)


def _doubtful_until(
    trial: FrozenTrial, others: Sequence[FrozenTrial], pruner: PrunerSettings, metric: str
) -> int:
    """The last epoch at which the trial looked like one to stop."""
    best: float | None = None
    last = 0
    for epoch, value in sorted(trial.intermediate_values.items()):
        best = value if best is None or is_better(metric, value, best) else best
        if isinstance(pruner, ThresholdSettings):
            doubtful = not pruner.allows(value)
        else:
            bar = _bar(others, epoch, getattr(pruner, "percentile", 50.0), metric)
            doubtful = bar is not None and is_better(metric, bar, best)
        last = epoch if doubtful else last
    return last


def _bar(
    others: Sequence[FrozenTrial], epoch: int, percent_kept: float, metric: str
) -> float | None:
    """What the best `percent_kept` of the others had at an epoch; None if none was there."""
    curves = (trial.intermediate_values for trial in others)
    there = [curve[epoch] for curve in curves if epoch in curve]
    rank = 100 - percent_kept if direction(metric) == "maximize" else percent_kept
    return float(np.percentile(there, rank)) if there else None


def _halves(
    audited: Sequence[FrozenTrial], found: Sequence[FalsePrune], config: RunConfig
) -> tuple[Half | None, Half | None]:
    measured = [(strength(trial, config), trial.number) for trial in audited]
    ordered = [number for value, number in sorted((v, n) for v, n in measured if v is not None)]
    if not ordered:
        return None, None
    false = {prune.number for prune in found}
    middle = len(ordered) // 2
    weaker, stronger = ordered[:middle], ordered[middle:]
    return Half(len(weaker), len(false & {*weaker})), Half(len(stronger), len(false & {*stronger}))


def _advice(
    found: Sequence[FalsePrune], num_audited: int, num_pruned: int, config: RunConfig
) -> str:
    wanted = num_audited + num_pruned
    if not wanted:
        return "the pruner wanted to stop no trial"
    if not num_audited:
        return f"none of the {wanted} trials that the pruner wanted to stop was audited"
    if not found:
        return f"no false prune among {num_audited} audited of {wanted} that the pruner would stop"
    head = f"{len(found)} false prune{'s' * (len(found) > 1)} among {num_audited} audited"
    if not any(prune.is_costly for prune in found):
        return f"{head}, but none in the best quarter: pruning cost little"
    until = max(prune.doubtful_until for prune in found)
    return f"{head}: {_remedy(until, config)}"


def _remedy(until: int, config: RunConfig) -> str:
    """What would have kept trials that were doubtful until this epoch."""
    pruner, epochs = config.study.pruner, config.training.epochs
    if until >= epochs:
        return "no warm-up would have kept all of them; a milder pruner would"
    if hasattr(pruner, "warmup_epochs"):
        return f"`study.pruner.warmup_epochs: {until}` would have kept all of them"
    return f"they looked bad until epoch {until}; give each trial {until + 1} `min_epochs`"
