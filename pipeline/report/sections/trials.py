"""The pruning audit, and each trial with its diagnosis."""

from __future__ import annotations

from optuna.trial import FrozenTrial, TrialState

from pipeline.errors import redact
from pipeline.report.evidence import Evidence
from pipeline.report.page import Row, Section, Table
from pipeline.report.sections.head import capital
from pipeline.report.summary import points
from pipeline.study.carried import CARRIED_FROM
from pipeline.study.store import REASON
from pipeline.study.trials import overrides_of
from pipeline.words import describe, show_metric

SHORT = 12
"""Tables of up to so many trials are shown at once."""


def audit_section(evidence: Evidence) -> Section:
    """What pruning cost."""
    found, title = evidence.audit, "The pruning audit"
    source = "Computed from the curves in the Optuna study; audited trials are marked there by "
    source += "regsearch.would_prune."
    if not found.num_audited:
        cure = (
            ": `study.audit_fraction` above 0 in the next `regsearch run` lets some run on"
            if found.num_pruned
            else ", so that there is nothing to audit"
        )
        return Section("audit", title, missing=(f"{capital(found.advice)}{cure}.",), source=source)
    lead = [f"{capital(found.advice)}."]
    if found.share is not None and found.interval is not None:
        low, high = found.interval
        lead.append(
            f"Share of false prunes: {found.share:.0%} (95 % interval {low:.0%} to {high:.0%})."
        )
    if found.regret:
        worse = points(evidence.metric, found.regret)[1:]
        lead.append(f"Without the audit the best value would have been {worse} worse.")
    rows = [
        Row(
            (
                f"trial {one.number}",
                show_metric(evidence.metric, one.value),
                str(one.epoch),
                "yes" if one.is_best else "no",
                evidence.sources.of_trial(one.number),
            )
        )
        for one in found.false_prunes
    ]
    columns = ("false prune", evidence.metric, "stopped at epoch", "the best of all", "MLflow run")
    tables = (Table("Trials that ended in the better half all the same", columns, rows),)
    return Section("audit", title, tuple(lead), tables=tables if rows else (), source=source)


def trials_section(evidence: Evidence) -> Section:
    """A row a trial, the best first."""
    trials = _ordered(evidence)
    if not trials:
        text = "There is no trial yet: `regsearch run SPACE.yaml` begins the search."
        return Section("trials", "Trials and their diagnosis", missing=(text,))
    columns = (
        "trial",
        "state",
        evidence.metric.replace("/", " "),
        "train accuracy",
        "gap",
        "ece",
        "diagnosis",
        "settings",
        "MLflow run",
    )
    rows = [_row(evidence, trial) for trial in trials]
    tables = [Table("The best first", columns, rows[:SHORT])]
    if len(rows) > SHORT:
        rest = f"the other {len(rows) - SHORT} trials"
        tables.append(Table("", columns, rows[SHORT:], folded=rest))
    return Section(
        name="trials",
        title="Trials and their diagnosis",
        lead=(
            "Gap: accuracy on clean training images less that on validation images, in points. "
            "The diagnosis is a rule of thumb; its advice comes with each trial in MLflow.",
        ),
        tables=tuple(tables),
        source="Each trial's metrics at its best epoch (where pruned, its last): Optuna study.",
    )


def _ordered(evidence: Evidence) -> list[FrozenTrial]:
    """Those that may win, by rank; then the other finished ones; then the rest."""
    place = {trial.number: i for i, trial in enumerate(evidence.ledger.ranked())}
    states = [TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING, TrialState.FAIL]
    order = {state: i for i, state in enumerate(states)}

    def key(trial: FrozenTrial) -> tuple[int, int, int]:
        rank = place.get(trial.number, len(place))
        return rank, order.get(trial.state, len(order)), trial.number

    return sorted(evidence.trials, key=key)


def _row(evidence: Evidence, trial: FrozenTrial) -> Row:
    scores, found = evidence.scored(trial), evidence.diagnosis(trial)
    gap = scores.get("generalization_gap")
    verdict = evidence.verdict
    return Row(
        (
            _name(evidence, trial),
            trial.state.name.lower(),
            show_metric(evidence.metric, scores.get(evidence.metric, trial.value)),
            show_metric("accuracy", scores.get("train/clean_accuracy")),
            "-" if gap is None else points("accuracy", gap),
            show_metric("ece", scores.get("validation/ece")),
            _reason(trial) if found is None else found.word,
            describe(overrides_of(trial)) or "the file's own",
            evidence.sources.of_trial(trial.number),
        ),
        marked=verdict is not None and trial.number == verdict.winner.trial.number,
    )


def _name(evidence: Evidence, trial: FrozenTrial) -> str:
    origin = trial.user_attrs.get(CARRIED_FROM)
    return evidence.ledger.name_of(trial) + (f" (from {origin})" if origin else "")


def _reason(trial: FrozenTrial) -> str:
    """Why a trial failed, in a line; a traceback's first one names its error."""
    return redact(str(trial.user_attrs.get(REASON, ""))).partition("\n")[0] or "-"
