"""What there is on record of a trial: all that it takes to train it again, and what it came to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from optuna.trial import FrozenTrial, TrialState

from pipeline.calibration import CALIBRATIONS, Calibration, as_trained, measured_for
from pipeline.config import RunConfig
from pipeline.errors import UserError
from pipeline.events import EpochEnded
from pipeline.journal import JournalReader, journal_folder
from pipeline.settings import Scalar
from pipeline.study.carried import CARRIED_FROM, is_carried
from pipeline.study.followup import FollowUp, open_followup
from pipeline.study.ledger import Ledger
from pipeline.study.owner import host_of, new_owner
from pipeline.study.record import changed_versions, recall
from pipeline.study.storage import open_storage
from pipeline.study.store import HISTORY, OWNER, REASON
from pipeline.study.trials import overrides_of
from pipeline.workers.plan import device_name, resolve_devices


@dataclass(frozen=True)
class Record:
    """A trial as its study has it.

    Attributes:
        name: what people read.
        config: the settings of the study, as its trials are trained.
        overrides: what the trial changes in them.
        seed: names the trial's streams of chance.
        digest: of the images.
        folds_validation: whether it is trained on the validation images too.
        device: on which it is to be trained again.
        threads: torch's threads; 0 leaves torch's choice.
        epochs: what was recorded, by the attempts in their order; a trial that was killed may have
            an epoch twice.
        changes: what is not as it was, as far as that is on record, a line each.
        notes: what else is to be known, a line each.
    """

    name: str
    config: RunConfig
    overrides: Mapping[str, Scalar]
    seed: int | str
    digest: str
    folds_validation: bool
    device: str
    threads: int
    epochs: Sequence[EpochEnded]
    changes: Sequence[str]
    notes: Sequence[str]

    @property
    def num_epochs(self) -> int:
        """How far the record goes."""
        return max(event.epoch for event in self.epochs)


def find_record(
    storage: str, study: str, number: int, kind: str = "", device: str = "auto"
) -> Record:
    """What a store and the journal have of a trial.

    Args:
        kind: the follow-up whose training is meant, such as `finalists`; empty for the search.
        device: `auto` for such a one as the study was trained on, if it is there.

    Raises:
        UserError: there is no such store, study, follow-up, trial or device, or the trial has no
            epoch to compare with.
    """
    store = open_storage(storage, create=False)
    ledger = Ledger(recall(store, study), store, begin=False)
    books = open_followup(ledger, kind) if kind else ledger
    trial = _find_trial(books, number)
    epochs, notes = _recorded(books, trial)
    chosen = _choose_device(ledger, device)
    measured = measured_for(ledger.study.user_attrs, chosen)
    return Record(
        name=f"{books.study_name}: {books.name_of(trial)}",
        config=as_trained(books.config, measured),
        overrides=overrides_of(trial),
        seed=books.seed_of(trial),
        digest=books.recorded("data_digest"),
        folds_validation=books.folds_validation,
        device=chosen,
        threads=Calibration(**measured).threads if measured else 0,
        epochs=epochs,
        changes=_changes(ledger, trial, chosen),
        notes=notes,
    )


def _find_trial(books: Ledger, number: int) -> FrozenTrial:
    trials = books.trials()
    if not 0 <= number < len(trials):
        raise UserError(
            f"{books.study_name!r} has no trial {number}",
            where="TRIAL",
            rule=f"a number from 0 to {len(trials) - 1}" if trials else "it has no trial yet",
            cure=_numbers(books),
        )
    trial = trials[number]
    if is_carried(trial):
        study, _, there = str(trial.user_attrs[CARRIED_FROM]).rpartition("/")
        raise UserError(
            f"trial {number} was carried over from the study {study!r}, where it is trial {there}",
            where="TRIAL",
            rule="a trial is trained again from the record of the study that trained it",
            cure=f"regsearch reproduce {study} {there}",
        )
    return trial


def _numbers(books: Ledger) -> str:
    """Where to find them; those of a follow-up are told, since nothing but MLflow shows them."""
    trials = books.trials()
    if not isinstance(books, FollowUp) or not trials:
        return "look for its number in MLflow, or in what `regsearch run` printed"
    told = "; ".join(f"{trial.number} ({books.name_of(trial)})" for trial in trials)
    return f"name one of {told}"


def _recorded(books: Ledger, trial: FrozenTrial) -> tuple[list[EpochEnded], list[str]]:
    """The trial's epochs, of every attempt, and what is to be known of them.

    From the journal; the store has the study's metric alone, for epochs that the journal lacks.
    """
    metric = books.metric
    reader = JournalReader(journal_folder(books.uuid))
    ended = [event for event in reader.read() if isinstance(event, EpochEnded)]
    epochs = [event for event in ended if event.trial == trial.number]
    lacking = trial.intermediate_values.keys() - {event.epoch for event in epochs}
    for epoch in sorted(lacking):
        metrics = {metric: trial.intermediate_values[epoch]}
        epochs.append(EpochEnded(trial.number, 0, epoch, metrics, 0))
    if not epochs:
        raise UserError(
            f"trial {trial.number} has no epoch to compare with: {_why_not(trial)}",
            where="TRIAL",
            rule="a trial that has reported an epoch at least",
            cure="name another one",
        )
    text = f"the journal lacks {len(lacking)} epochs, of which {metric} alone is known"
    return epochs, [text] if lacking else []


def _why_not(trial: FrozenTrial) -> str:
    if trial.state == TrialState.FAIL:
        reason = str(trial.user_attrs.get(REASON, "")).splitlines()
        return f"it failed before ({reason[0] if reason else 'for a reason that is unknown'})"
    return "it is still in its first" if trial.state == TrialState.RUNNING else "it only waits"


def _choose_device(ledger: Ledger, asked: str) -> str:
    """The device that is asked for; `auto` stays on the CPU with a study that began there."""
    began_on_cpu = _tags(ledger).get("regsearch.device") == "cpu"
    return resolve_devices("cpu" if asked == "auto" and began_on_cpu else asked)[0]


def _changes(ledger: Ledger, trial: FrozenTrial, device: str) -> list[str]:
    """What is not as it was when the trial was trained, as far as that is on record."""
    attrs = ledger.study.user_attrs
    lines = changed_versions(attrs.get("regsearch.versions", {}))
    then, now = _tags(ledger).get("regsearch.device"), device_name(device)
    if all(key in attrs for key in CALIBRATIONS.values()):
        lines.append(f"the study was trained on the CPU and on a GPU; this is {now}")
    elif then != now:
        lines.append(f"the device was {then}, and is {now}")
    attempts = [trial.user_attrs, *trial.user_attrs.get(HISTORY, [])]
    owners = [str(attempt.get(OWNER) or attempt.get("owner") or "") for attempt in attempts]
    hosts = sorted({host_of(owner) for owner in owners if owner} - {host_of(new_owner())})
    if hosts:
        lines.append(f"the machine was {', '.join(hosts)}, and is {host_of(new_owner())}")
    return lines


def _tags(ledger: Ledger) -> Mapping[str, str]:
    """What the study has noted of its first start."""
    tags: Mapping[str, str] = ledger.study.user_attrs.get("regsearch.tags", {})
    return tags
