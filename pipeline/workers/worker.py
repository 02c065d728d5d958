"""A worker process: claims trials of a study and runs them until none is left.

It talks to nobody but the store, the journal and its own files, so that a kill at any moment leaves
no lock or pipe half-used.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.config import RunConfig
from pipeline.errors import UserError, redact
from pipeline.interrupts import interrupt, raise_if_lost, resend_lost

if TYPE_CHECKING:
    from pipeline.study.ledger import Ledger

BEAT_SEC, WATCH_SEC = 2.0, 0.5
IDLE_SEC = 0.3
STOP_SIGNAL = signal.SIGTERM

EXIT_DONE, EXIT_FAULT, EXIT_MISTAKE, EXIT_STOPPED = 0, 1, 2, 143


@dataclass(frozen=True)
class Job:
    """What a worker is to do; it travels to the process through a pipe, never by arguments.

    Attributes:
        name: names the worker, in MLflow and on the screen.
        config: the study's settings.
        trained: the same, with the precision and the engine by which trials are trained.
        storage: the store's URL.
        device: a device's name, such as `cuda:1`.
        threads: torch's threads; 0 leaves torch's own choice.
        splits_file: where the splits are kept (`Splits.file`); None where they aren't.
        num_devices: on how many the study is shared out.
        deadline: no trial is begun after this `time.time()`; infinite for none.
        forgiven: trials that had failed before this run began.
        log: where its output goes.
        followup: the kind of the follow-up whose points it trains; empty for the search.
        keeps: whether that keeps the weights.
    """

    name: str
    config: RunConfig
    trained: RunConfig
    storage: str
    device: str
    threads: int
    splits_file: Path | None
    num_devices: int
    deadline: float
    forgiven: tuple[int, ...]
    log: Path
    followup: str = ""
    keeps: bool = False


def work(job: Job) -> None:
    """The process's whole life; its exit code is 0 when there is nothing left to do."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group: see `Pool.stop`
    resend_lost(_arm)
    _arm()
    _redirect_output(job.log)
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, [])  # blocked so far: see `warm_up`
        _run_trials(job)
    except KeyboardInterrupt:
        sys.exit(EXIT_STOPPED)
    except UserError as error:
        from pipeline.study.patience import StoreAwayError

        print(error, file=sys.stderr)
        sys.exit(EXIT_FAULT if isinstance(error, StoreAwayError) else EXIT_MISTAKE)
    except Exception as error:  # noqa: BLE001 - a traceback may show a password
        import traceback

        print(redact("".join(traceback.format_exception(error))), file=sys.stderr)
        sys.exit(EXIT_FAULT)


def _run_trials(job: Job) -> None:
    """Claim and run until the study or the time is over, or too many trials have failed."""
    # Threads that spin while they wait stall one another on a busy machine; set before torch loads.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    import torch
    from optuna.trial import TrialState

    from pipeline.answers import judged_by
    from pipeline.checkpoints import CheckpointStore
    from pipeline.datasets import load_splits
    from pipeline.journal import JournalWriter, journal_folder
    from pipeline.judging import Judge
    from pipeline.memory import keep_freed
    from pipeline.study.followup import FollowUp
    from pipeline.study.ledger import Ledger
    from pipeline.study.patience import PATIENCE_SEC
    from pipeline.study.record import recall
    from pipeline.study.storage import open_storage
    from pipeline.trainers import Trainers, calibrated_trainers
    from pipeline.training.data import DeviceData, to_device
    from pipeline.trial import TrialRunner
    from pipeline.weights import WeightStore
    from pipeline.workers.plan import device_name

    threading.Thread(target=_watch_coordinator, daemon=True).start()
    keep_freed()
    if job.threads:
        torch.set_num_threads(job.threads)
    if job.device.startswith("cuda"):
        torch.cuda.set_device(job.device)
    config = job.config
    splits = load_splits(config.data, config.study.seed, known=job.splits_file)
    store = open_storage(job.storage, patience_sec=PATIENCE_SEC)
    ledger: Ledger
    if job.followup:
        ledger = FollowUp(config, store, job.followup, keeps=job.keeps)
    else:
        ledger = Ledger(config, store, begin=False)
    ledger.require_same_data(splits.digest)
    if ledger.folds_validation:
        splits = splits.folded()
    data = DeviceData.from_splits(splits, torch.device(job.device), config.study.seed)
    journal = JournalWriter(journal_folder(ledger.uuid))
    stores = (CheckpointStore(ledger.uuid), WeightStore(ledger.uuid))
    judge = None
    if job.followup:  # the search's workers look at no selection image
        selection = to_device(splits.selection, torch.device(job.device))
        judge = Judge(selection, data, judged_by(config.study.metric))
    if job.device.startswith("cuda"):
        name = config.study.name
        search = Ledger(recall(store, name), store, begin=False) if job.followup else ledger
        trainers = calibrated_trainers(job.trained, data, search, job.num_devices, journal.note)
    else:
        trainers = Trainers(job.trained, data, journal.note)
    where = device_name(job.device)
    runner = TrialRunner(trainers, ledger, journal, *stores, job.name, judge, where)
    threading.Thread(target=_beat, args=(ledger,), daemon=True).start()
    limit = config.study.max_consecutive_failures
    while time.time() < job.deadline:
        raise_if_lost()
        if len(ledger.failures_in_a_row(job.forgiven)) >= limit:
            if not ledger.trials(TrialState.RUNNING):
                return
            time.sleep(IDLE_SEC)  # one of those that run may still end the row
            continue
        claim = ledger.claim()
        if claim is not None:
            runner.run(claim)
        elif ledger.is_over():
            return
        else:  # the running trials use the budget up, unless one fails
            time.sleep(IDLE_SEC)


def _beat(ledger: Ledger) -> None:
    """Say that this process lives, for the trial that it holds."""
    pause_sec = min(BEAT_SEC, ledger.config.study.grace_sec / 5)
    while True:
        try:
            ledger.beat()
        except Exception as error:  # noqa: BLE001 - a store that is away may come back
            print(redact(f"no heartbeat: {error}"), file=sys.stderr, flush=True)
        time.sleep(pause_sec)


def _watch_coordinator() -> None:
    """Stop this process when the one that started it is gone."""
    coordinator = multiprocessing.parent_process()
    while coordinator is None or coordinator.is_alive():
        time.sleep(WATCH_SEC)
    os.kill(os.getpid(), STOP_SIGNAL)


def _arm(*_: object) -> signal.Signals:
    """From here on the signal to stop raises `KeyboardInterrupt`."""
    signal.signal(STOP_SIGNAL, _stop)
    return STOP_SIGNAL


def _stop(*_: object) -> None:
    signal.signal(STOP_SIGNAL, signal.SIG_IGN)  # once is enough: what follows is cleaning up
    interrupt(KeyboardInterrupt)


def _redirect_output(log: Path) -> None:
    """Prints and warnings of whatever library go to a file, not into the progress view."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
