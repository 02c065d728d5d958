"""Where the studies of a store stand: counts, best, who runs what, and what they take on disk."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from optuna.trial import TrialState

from pipeline.champion_record import recall_champion
from pipeline.checkpoints import CheckpointStore
from pipeline.coordinator import standing
from pipeline.journal import journal_folder
from pipeline.standing import Standing
from pipeline.study.followup import FollowUp, open_followups
from pipeline.study.ledger import Ledger
from pipeline.study.owner import describe_owner, has_died
from pipeline.study.record import recall, study_names
from pipeline.study.storage import open_storage
from pipeline.study.store import ATTEMPT, OWNER
from pipeline.weights import WeightStore
from pipeline.words import show_mean


@dataclass(frozen=True)
class RunningTrial:
    """A trial that somebody runs.

    Attributes:
        name: `trial 7`; of a follow-up, `recipe, seed 2`.
        heard_sec: since its worker was last heard of, by the store's clock.
        is_dead: its process is known to be gone.
    """

    name: str
    attempt: int
    epoch: int
    worker: str
    heard_sec: float
    is_dead: bool


@dataclass(frozen=True)
class FollowUpStatus:
    """One follow-up of a study: `finalists`, `ablation`. All but its `target` are counts of
    trainings in these states; a failed one is queued again when the follow-up goes on."""

    kind: str
    target: int
    complete: int
    failed: int
    waiting: int
    running: list[RunningTrial]


@dataclass(frozen=True)
class StudyStatus:
    """One study.

    Attributes:
        champion: who won the last final, and its score on the selection images; empty before.
        disk_bytes: what its checkpoints, weights and journal take, with those of its follow-ups.
    """

    name: str
    standing: Standing
    waiting: int
    running: list[RunningTrial]
    disk_bytes: dict[str, int]
    followups: list[FollowUpStatus] = field(default_factory=list)
    champion: str = ""


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
    followups, disk = open_followups(ledger), Counter[str]()
    for books in (ledger, *followups):
        disk.update(_disk_bytes(books))
    return StudyStatus(
        name=ledger.config.study.name,
        standing=standing(ledger),
        waiting=len(ledger.trials(TrialState.WAITING)),
        running=_running(ledger),
        disk_bytes=dict(disk),
        followups=list(map(_followup_status, followups)),
        champion=_champion(ledger, followups),
    )


def _champion(ledger: Ledger, followups: Sequence[FollowUp]) -> str:
    found = recall_champion(ledger, {followup.kind: followup for followup in followups})
    if found is None or ledger.study.user_attrs.get("regsearch.winner") is None:
        return ""
    nets = found.nets
    what = (
        "its registered net has" if len(nets.trials) == 1 else "its registered nets have, as one,"
    )
    return (
        f"{nets.name}; {what} {show_mean(nets.judged, nets.selection)} {nets.judged} on selection"
    )


def _followup_status(followup: FollowUp) -> FollowUpStatus:
    states = Counter(trial.state for trial in followup.trials())
    return FollowUpStatus(
        kind=followup.kind,
        target=states.total() - states[TrialState.FAIL],
        complete=states[TrialState.COMPLETE],
        failed=states[TrialState.FAIL],
        waiting=states[TrialState.WAITING],
        running=_running(followup),
    )


def _running(ledger: Ledger) -> list[RunningTrial]:
    ages, found = ledger.store.heartbeat_ages(ledger.id), []
    for trial in ledger.trials(TrialState.RUNNING):
        owner = str(trial.user_attrs.get(OWNER, ""))
        found.append(
            RunningTrial(
                name=ledger.name_of(trial),
                attempt=int(trial.user_attrs.get(ATTEMPT, 1)),
                epoch=max(trial.intermediate_values, default=0),
                worker=describe_owner(owner) if owner else "unknown",
                heard_sec=ages.get(trial.number, 0.0),
                is_dead=bool(owner) and has_died(owner),
            )
        )
    return found


def _disk_bytes(ledger: Ledger) -> dict[str, int]:
    journal = journal_folder(ledger.uuid)
    return {
        "checkpoints": CheckpointStore(ledger.uuid).size_bytes(),
        "weights": WeightStore(ledger.uuid).size_bytes(),
        "journal": sum(path.stat().st_size for path in journal.glob("*")),
    }
