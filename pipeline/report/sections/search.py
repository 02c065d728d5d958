"""The search: how it went, where the good trials lie, and which settings matter."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.analysis.importance import MIN_TO_DISMISS, MIN_TRIALS
from pipeline.report.bounds import sentence
from pipeline.report.evidence import Evidence
from pipeline.report.figures.dots import Dot, dots
from pipeline.report.figures.parallel import parallel_figure
from pipeline.report.figures.search import (
    history_figure,
    importance_figure,
    slice_figure,
    value_span,
)
from pipeline.report.page import Picture, Row, Section, Table
from pipeline.words import short_name


def search_section(evidence: Evidence) -> Section:
    """History, parallel coordinates, importance, slices and what the bounds doctor says."""
    shown = dots(evidence.trials)
    if not shown:
        text = "No trial is finished: `regsearch run SPACE.yaml` goes on with the search."
        return Section("search", "The search", missing=(text,))
    missing = [] if evidence.bounds else [f"The bounds are not judged yet: {evidence.no_bounds}."]
    if not evidence.ledger.config.search:
        missing = ["Nothing is searched in this study: its baselines are its only trials."]
    return Section(
        name="search",
        title="The search",
        lead=_lead(shown),
        tables=_bounds_table(evidence),
        pictures=tuple(_pictures(evidence, shown)),
        missing=tuple(missing),
        source=f"Optuna study {evidence.ledger.study_name}, trials {shown[0].number} to "
        f"{shown[-1].number}; the MLflow run of each is in the table of the trials.",
    )


def _lead(shown: list[Dot]) -> tuple[str, ...]:
    kinds = {dot.kind for dot in shown}
    told = {
        "baseline": "squares are baselines, which lie at the point of the space nearest to them",
        "pruned": "crosses were pruned, and stand at their last value",
        "audited": "stars would have been pruned and ran on for the audit",
        "carried over": "hollow circles come from an earlier study",
    }
    parts = [text for kind, text in told.items() if kind in kinds]
    return (f"Each dot is a trial: {'; '.join(parts)}.",) if parts else ("Each dot is a trial.",)


def _pictures(evidence: Evidence, shown: list[Dot]) -> Iterator[Picture]:
    ledger, metric = evidence.ledger, evidence.metric
    allowed = {trial.number for trial in ledger.ranked()}
    text = f"{metric} of every trial, and the best so far"
    yield Picture("history", f"{text}.", history_figure(shown, allowed, metric))
    entries = ledger.space.entries
    if len(entries) > 1:
        text = "All settings of each trial on one line, from low to high bound; the metric last."
        yield Picture("parallel", text, parallel_figure(entries, shown, metric))
    for index, (judged, importances) in enumerate(evidence.importances.items()):
        found = [one for one in importances if one.path in entries]
        if not found:
            continue
        of = f" for {judged}" if len(evidence.importances) > 1 else ""
        text = (
            f"How much each setting matters{of} (PED-ANOVA), its share of all; p: how often chance "
            "alone makes a setting look as important. Dark blue matters, grey does not, light blue "
            f"can't be told: it takes {MIN_TRIALS} trials to find an effect and {MIN_TO_DISMISS} "
            "to rule it out."
        )
        yield Picture(f"importance-{index}", text, importance_figure(found))
    for index, (path, entry) in enumerate(entries.items()):
        figure = slice_figure(path, entry, shown, metric, value_span(shown))
        yield Picture(f"slice-{index}", f"{metric} along {path}; dashed: its bounds.", figure, True)


def _bounds_table(evidence: Evidence) -> tuple[Table, ...]:
    report = evidence.bounds
    if report is None or not report.findings:
        return ()
    rows = [Row((short_name(found.path), sentence(found))) for found in report.findings]
    caption = f"What {report.num_trials} finished trials, without baselines, say of the bounds"
    return (Table(caption, ("setting", "finding"), rows),)
