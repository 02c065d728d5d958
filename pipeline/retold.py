"""Tags of trials' runs that may change after their trials have ended: what other trials, or other
constraints, make of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta

from optuna.trial import FrozenTrial

from pipeline.diagnosed import diagnosis_of, diagnosis_tags
from pipeline.events import TrialScored, now_ms
from pipeline.journal import JournalWriter
from pipeline.study.carried import is_carried
from pipeline.study.constraints import FEASIBLE, is_feasible
from pipeline.study.ledger import REJUDGED, Ledger
from pipeline.study.store import ATTEMPT, FINISHED, SCORED

PARETO = "regsearch.pareto"
"""Of a trial's run: `front`, or `dominated` where it was on the front once."""
_TOLD, _DIAGNOSED = "front", "diagnosed"
_ALL = -1
AT_ONCE = timedelta(seconds=30)
"""Who ends so soon after the unregularized baseline may not have known of it yet."""


def retell(ledger: Ledger, journal: JournalWriter) -> None:
    """Write down what has changed since it was written down last."""
    if len(ledger.objectives) > 1:
        _tell_front(ledger, journal)
    _tell_diagnoses(ledger, journal)
    if ledger.study.user_attrs.get(f"regsearch.{REJUDGED}"):
        trials = ledger.trials(*FINISHED)
        _tell(journal, trials, {t.number: {FEASIBLE: str(is_feasible(t)).lower()} for t in trials})
        ledger.keep(REJUDGED, False)


def _tell_front(ledger: Ledger, journal: JournalWriter) -> None:
    now = {trial.number for trial in ledger.front()}
    told = set(ledger.study.user_attrs.get(f"regsearch.{_TOLD}", []))
    if now != told:
        changed = now ^ told
        tags = {n: {PARETO: "front" if n in now else "dominated"} for n in changed}
        _tell(journal, ledger.trials(*FINISHED), tags)
        ledger.keep(_TOLD, sorted(now))


def _tell_diagnoses(ledger: Ledger, journal: JournalWriter) -> None:
    """Of the trials that ended before the unregularized baseline told what the net can fit."""
    told = ledger.study.user_attrs.get(f"regsearch.{_DIAGNOSED}", [])
    baseline = None if told == _ALL else ledger.baseline("unregularized")
    if baseline is None or baseline.datetime_complete is None:
        return
    until = baseline.datetime_complete + AT_ONCE
    early = [t for t in ledger.trials(*FINISHED) if (t.datetime_complete or until) <= until]
    known = told if isinstance(told, list) else []  # it was a number once
    found = {t.number: diagnosis_of(ledger, t) for t in early if t.number not in known}
    _tell(journal, early, {n: diagnosis_tags(one) for n, one in found.items() if one is not None})
    now = _ALL if datetime.now() > until else sorted({*known, *found})
    if now != told:
        ledger.keep(_DIAGNOSED, now)


def _tell(
    journal: JournalWriter, trials: Iterable[FrozenTrial], tags: Mapping[int, Mapping[str, str]]
) -> None:
    """Another study's trials have no run in this one's experiment."""
    for trial in trials:
        if trial.number in tags and not is_carried(trial):
            attempt = int(trial.user_attrs[ATTEMPT])
            epoch = int(trial.user_attrs.get(SCORED, {}).get("epoch", 0))
            of_trial = dict(tags[trial.number])
            journal.put(TrialScored(trial.number, attempt, epoch, {}, of_trial, now_ms()))
