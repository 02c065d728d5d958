"""Where the studies of a store stand: counts, best, who runs what, and what they take on disk."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from optuna.trial import TrialState

from pipeline.checkpoints import CheckpointStore
from pipeline.coordinator import standing
from pipeline.journal import journal_folder
from pipeline.progress import Standing
from pipeline.study.ledger import Ledger
from pipeline.study.owner import describe_owner, has_died
from pipeline.study.record import recall, study_names
from pipeline.study.storage import open_storage
from pipeline.study.store import ATTEMPT, OWNER
from pipeline.weights import WeightStore


@dataclass(frozen=True)
class RunningTrial:
    """A trial that somebody runs.

    Attributes:
        heard_sec: since its worker was last heard of, by the store's clock.
        is_dead: its process is known to be gone.
    """

    number: int
    attempt: int
    epoch: int
    worker: str
    heard_sec: float
    is_dead: bool


@dataclass(frozen=True)
class StudyStatus:
    """One study.

    Attributes:
        disk_bytes: what its checkpoints, weights and journal take.
    """

    name: str
    standing: Standing
    waiting: int
    running: list[RunningTrial]
    disk_bytes: dict[str, int]


def open_ledgers(storage: str, study: str | None, *, upgrade: bool = False) -> Iterator[Ledger]:
    """The ledger of one study of a store, or of all (`upgrade`: see `open_storage`).

    Raises:
        UserError: there is no such store or study.
    """
    store = open_storage(storage, create=False, upgrade=upgrade)
    for name in study_names(store) if study is None else [study]:
        yield Ledger(recall(store, name), store, begin=False)


def study_statuses(storage: str, study: str | None) -> list[StudyStatus]:
    """How they stand now (see `open_ledgers`)."""
    return [_status(ledger) for ledger in open_ledgers(storage, study)]


def _status(ledger: Ledger) -> StudyStatus:
    ages = ledger.store.heartbeat_ages(ledger.id)
    running = []
    for trial in ledger.trials(TrialState.RUNNING):
        owner = str(trial.user_attrs.get(OWNER, ""))
        running.append(
            RunningTrial(
                number=trial.number,
                attempt=int(trial.user_attrs.get(ATTEMPT, 1)),
                epoch=max(trial.intermediate_values, default=0),
                worker=describe_owner(owner) if owner else "unknown",
                heard_sec=ages.get(trial.number, 0.0),
                is_dead=bool(owner) and has_died(owner),
            )
        )
    journal = journal_folder(ledger.uuid)
    disk = {
        "checkpoints": CheckpointStore(ledger.uuid).size_bytes(),
        "weights": WeightStore(ledger.uuid).size_bytes(),
        "journal": sum(path.stat().st_size for path in journal.glob("*")),
    }
    return StudyStatus(
        name=ledger.config.study.name,
        standing=standing(ledger),
        waiting=len(ledger.trials(TrialState.WAITING)),
        running=running,
        disk_bytes=disk,
    )
