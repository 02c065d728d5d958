"""Tags of trials' runs that may change after their trials have ended: what other trials, or other
constraints, make of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from optuna.trial import FrozenTrial

from pipeline.events import TrialScored, now_ms
from pipeline.journal import JournalWriter
from pipeline.study.carried import is_carried
from pipeline.study.constraints import FEASIBLE, is_feasible
from pipeline.study.ledger import REJUDGED, Ledger
from pipeline.study.store import ATTEMPT, FINISHED, SCORED

PARETO = "regsearch.pareto"
"""Of a trial's run: `front`, or `dominated` where it was on the front once."""
_TOLD = "front"


def retell(ledger: Ledger, journal: JournalWriter) -> None:
    """Write down what has changed since it was written down last."""
    if len(ledger.objectives) > 1:
        _tell_front(ledger, journal)
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
