"""`regsearch doctor`: what crashes and bit rot have left behind, and its cure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

from optuna.trial import TrialState

from pipeline.checkpoints import CheckpointStore
from pipeline.coordinator import requeued
from pipeline.errors import UserError
from pipeline.events import StudyEnded, now_ms
from pipeline.finalists import KIND
from pipeline.journal import JournalWriter, journal_folder
from pipeline.mirroring import agree, deliver, open_mirror
from pipeline.presence import is_anybody_present
from pipeline.registration import CHAMPION
from pipeline.registry import aliases, without_files
from pipeline.status import open_ledgers
from pipeline.study.followup import REFIT, FollowUp, open_followups
from pipeline.study.ledger import Ledger
from pipeline.study.owner import has_died
from pipeline.study.store import OWNER
from pipeline.tracking import Finding, Mirror
from pipeline.weights import WeightStore

TIMEOUT_SEC = 600.0


def examine(storage: str, study: str | None, *, fix: bool) -> list[Finding]:
    """What is wrong with one study of a store, or with all; with `fix`, it is mended.

    Raises:
        UserError: there is no such store or study, or the store is of another version.
    """
    findings: list[Finding] = []
    for ledger in open_ledgers(storage, study, upgrade=fix):
        findings += _named(ledger.config.study.name, _look_at(ledger, fix))
    return findings


def _look_at(ledger: Ledger, fix: bool) -> Iterator[Finding]:
    """A study and its follow-ups."""
    followups = open_followups(ledger)
    yield from _stale_trials(ledger, fix)
    yield from _files(ledger, fix)
    yield from _missing_weights(ledger)
    for followup in followups:
        yield from _named(followup.kind, _stale_trials(followup, fix))
        yield from _named(followup.kind, _files(followup, fix))
    yield from _mlflow(ledger, fix, followups)


def _named(name: str, findings: Iterable[Finding]) -> Iterator[Finding]:
    return (replace(found, text=f"{name}: {found.text}") for found in findings)


def _stale_trials(ledger: Ledger, fix: bool) -> Iterator[Finding]:
    """RUNNING trials that nobody runs."""
    ages = ledger.store.heartbeat_ages(ledger.id)
    for trial in ledger.trials(TrialState.RUNNING):
        owner = str(trial.user_attrs.get(OWNER, ""))
        silent = ages.get(trial.number, 0.0)
        if (owner and has_died(owner)) or silent > ledger.config.study.grace_sec:
            yield Finding(f"{ledger.name_of(trial)} is RUNNING, but nobody runs it", fix)
    if fix:
        swept = ledger.sweep()
        journal = JournalWriter(journal_folder(ledger.uuid))
        for event in map(requeued, swept):
            journal.put(event)
        journal.close()


def _files(ledger: Ledger, fix: bool) -> Iterator[Finding]:
    """Damaged checkpoints and weights, and those that nobody needs any more."""
    ended = {t.number for t in ledger.trials() if t.state.is_finished()}
    needed = ledger.needs_weights()
    stores: list[tuple[str, CheckpointStore | WeightStore, Callable[[int], bool]]] = [
        ("checkpoint", CheckpointStore(ledger.uuid), lambda number: number not in ended),
        ("weights", WeightStore(ledger.uuid), needed),
    ]
    for what, files, is_needed in stores:
        damaged, be = dict(files.check()), "are" if what == "weights" else "is"
        for number in files.trials():
            if number in damaged:
                text = f"the {what} of trial {number} cannot be used: {damaged[number]}"
            elif not is_needed(number):
                text = f"the {what} of trial {number} {be} no longer needed"
            else:
                continue
            if fix:
                files.remove(number)
            yield Finding(text, fix)
        if fix:
            files.remove_leftovers()


def _missing_weights(ledger: Ledger) -> Iterator[Finding]:
    best = [trial.number for trial in ledger.ranked_own()[:1]]
    missing = sorted({*best} - {*WeightStore(ledger.uuid).trials()})
    for number in missing:
        yield _beyond(f"the weights of the best trial, {number}, are gone")


def _missing_models(
    ledger: Ledger, mirror: Mirror, followups: Sequence[FollowUp]
) -> Iterator[Finding]:
    """A champion that MLflow doesn't have, models whose files are gone, and what they would be made
    of, if that is gone too."""
    name, broken = ledger.config.registry.model_name, False
    has_winner = ledger.study.user_attrs.get("regsearch.winner") is not None
    if has_winner and CHAMPION not in aliases(mirror.client, name):
        broken = True
        yield _beyond(f"models:/{name}@{CHAMPION} is not there; `regsearch sync` registers it")
    for alias in without_files(mirror.client, name, mirror.experiment_id):
        broken = True
        uri = f"models:/{name}@{alias}"
        yield _beyond(f"the files of {uri} are gone; `regsearch sync` makes them anew")
    for followup in followups if broken else ():
        lost = {t.number for t in followup.counting()} - {*WeightStore(followup.uuid).trials()}
        if lost and followup.kind in (KIND, REFIT):
            count = f"{len(lost)} training{'s' * (len(lost) > 1)}"
            text = f"the weights of {count} of the {followup.kind} are gone"
            yield _beyond(f"{text}; `regsearch run` with the space file trains what it needs again")


def _beyond(text: str) -> Finding:
    """What the doctor can only tell of."""
    return Finding(text, False, mendable=False)


def _mlflow(
    ledger: Ledger, fix: bool, followups: Sequence[FollowUp] = (), parent: Mirror | None = None
) -> Iterator[Finding]:
    """Runs that are missing, open, orphaned or twice there; and what MLflow has not taken yet."""
    try:
        mirror = open_mirror(ledger, parent)
    except UserError as error:
        yield _beyond(f"{error.what}; what waits for it could not be looked at")
        return
    try:
        if not deliver(mirror, TIMEOUT_SEC):
            yield _beyond("MLflow has not taken all of the journal; try again, or `sync`")
            return
        yield from agree(ledger, mirror, fix=fix)
        yield from _study_run(ledger, mirror, fix)
        if parent is None:
            yield from _missing_models(ledger, mirror, followups)
        for followup in followups:
            yield from _named(followup.kind, _mlflow(followup, fix, parent=mirror))
    finally:
        report = mirror.close()
    for text in report.refused:
        yield _beyond(f"MLflow has refused a write: {text}")


def _study_run(ledger: Ledger, mirror: Mirror, fix: bool) -> Iterator[Finding]:
    """A study's run that is open while nobody works on the study."""
    if is_anybody_present(ledger.uuid) or ledger.trials(TrialState.RUNNING):
        return
    if mirror.client.get_run(mirror.run_id).info.status == "RUNNING":
        if fix:
            journal = JournalWriter(journal_folder(ledger.uuid))
            journal.put(StudyEnded("FINISHED" if ledger.is_over() else "KILLED", now_ms()))
            journal.close()
            mirror.flush(TIMEOUT_SEC)
        yield Finding(f"the run of the {ledger.kind} is open, but nobody works on it", fix)
