"""Workers on a study, or on a follow-up of one, until nothing is left to do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from optuna.trial import TrialState

from pipeline.checkpoints import CheckpointStore
from pipeline.coordinator import Coordinator
from pipeline.journal import JournalReader, JournalWriter, journal_folder
from pipeline.progress import View
from pipeline.study.followup import FollowUp
from pipeline.study.ledger import Ledger
from pipeline.workers.plan import Plan
from pipeline.workers.pool import Pool
from pipeline.workers.worker import Job

LOGS = Path("mlruns/logs")


def run_workers(
    ledger: Ledger,
    plan: Plan,
    storage: str,
    deadline: float,
    journal: JournalWriter,
    view: View,
    when_started: Callable[[], None] | None = None,
    when_idle: Callable[[], None] | None = None,
) -> str:
    """Have the workers claim and run trials until there are none, time is up, or too many fail.

    Args:
        storage: the URL of the ledger's store.
        deadline: no trial is begun after this `time.time()`; infinite for none.
        when_started: called once, when all workers have been started.
        when_idle: called once, when a worker finds nothing more to do while others train on.

    Returns:
        Why it was given up: the reason of the last of too many failures in a row; else empty.
    """
    forgiven = tuple(trial.number for trial in ledger.trials(TrialState.FAIL))
    reader = JournalReader(journal_folder(ledger.uuid))
    reader.skip_to_end()
    followup = ledger if isinstance(ledger, FollowUp) else None
    jobs = [
        Job(
            name=f"worker {index + 1}",
            config=ledger.config,
            trained=plan.config,
            storage=storage,
            device=device,
            threads=plan.threads,
            splits_file=plan.splits_file,
            num_devices=plan.num_devices,
            deadline=deadline,
            forgiven=forgiven,
            log=LOGS / ledger.uuid / f"worker-{index + 1}.log",
            followup=followup.kind if followup else "",
            keeps=followup.keeps if followup else False,
        )
        for index, device in enumerate(plan.devices)
    ]
    pool = Pool([] if ledger.is_over() else jobs)
    Coordinator(ledger, pool, journal, reader, view, when_started, when_idle).watch()
    _remove_left_over(ledger)
    failures = ledger.failures_in_a_row(forgiven)
    if len(failures) < ledger.config.study.max_consecutive_failures:
        return ""
    return str(failures[-1].user_attrs.get("regsearch.reason", ""))


def _remove_left_over(ledger: Ledger) -> None:
    """A worker that is killed just after it has settled a trial leaves the trial's checkpoint."""
    checkpoints = CheckpointStore(ledger.uuid)
    left = checkpoints.trials()
    ended = {trial.number for trial in ledger.trials() if trial.state.is_finished()}
    for number in ended.intersection(left):
        checkpoints.remove(number)
