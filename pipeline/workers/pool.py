"""The worker processes of one run: started, watched, restarted, stopped."""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import forkserver, resource_tracker
from multiprocessing.context import ForkServerProcess

from pipeline.workers.worker import EXIT_DONE, EXIT_MISTAKE, EXIT_STOPPED, Job, work

QUICK_SEC = {"cpu": 20.0, "cuda": 180.0}
"""By the kind of device: a GPU's worker may compile for a minute before its first trial."""
MAX_QUICK_FAULTS, MAX_QUICK_KILLS = 3, 30
"""A worker that dies so soon after its start, so many times in a row, is not started again."""

# Workers are forked from a process that has loaded what they need, and done nothing with it: a fork
# of this one would not survive torch's threads and CUDA, and a fresh start takes seconds each time.
_FORKSERVER = multiprocessing.get_context("forkserver")
_OURS = "pipeline.trial", "pipeline.study.ledger", "pipeline.study.storage", "pipeline.datasets"
_LATE = "alembic.command", "alembic.script", "sqlalchemy.dialects.sqlite", "numpy.random"
"""What others load at its first use, which is half a second in each worker."""
_FORKSERVER.set_forkserver_preload([*_OURS, *_LATE])


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Signals wait: a process that was started, but is not known yet, would never be stopped. One
    that is started inside begins with them blocked."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def warm_up() -> None:
    """Begin to load what workers need while this process does other things.

    What is in the environment by now is what the workers will see. A Ctrl-C reaches the process
    that loads it, too: it has nothing to say to it.
    """
    resource_tracker.ensure_running()  # else by the next one, and it lets signals through again
    with _uninterrupted():
        forkserver.ensure_running()


@dataclass(frozen=True)
class Death:
    """A worker that ended otherwise than done: by a signal (its negative number) or a code."""

    job: Job
    exit_code: int
    is_final: bool
    log_start: int

    @property
    def text(self) -> str:
        """Why, in a few words."""
        if self.exit_code < 0:
            return f"was killed by signal {-self.exit_code}"
        return f"ended with code {self.exit_code}; see {self.job.log}"

    def last_words(self, lines: int = 12) -> str:
        """The end of what it printed."""
        try:
            text = self.job.log.read_bytes()[self.log_start :].decode(errors="replace")
            return "\n".join(text.splitlines()[-lines:])
        except OSError:
            return ""


class _Worker:
    def __init__(self, job: Job) -> None:
        self.job = job
        self.quick_deaths = 0
        self.start()

    def start(self) -> None:
        self.started = time.monotonic()
        self.log_start = self.job.log.stat().st_size if self.job.log.exists() else 0
        self.process: ForkServerProcess = _FORKSERVER.Process(target=work, args=(self.job,))
        self.process.start()


class Pool:
    """Runs one process a job, and starts those anew that are killed."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self._jobs, self._workers = jobs, list[_Worker]()
        self._stopping = False

    def start(self) -> None:
        """Start them all; `stop` knows of each that was, wherever an interrupt comes."""
        for job in self._jobs:
            with _uninterrupted():
                self._workers.append(_Worker(job))

    @property
    def num_workers(self) -> int:
        """How many are not done, as far as `reap` has seen."""
        return len(self._workers)

    @property
    def num_done(self) -> int:
        """How many have ended for good."""
        return len(self._jobs) - len(self._workers)

    def reap(self) -> list[Death]:
        """The workers that died since the last call; each has been started again, unless final."""
        deaths = []
        for worker in list(self._workers):
            code = worker.process.exitcode
            if code is None:
                continue
            if code == EXIT_DONE or (self._stopping and code == EXIT_STOPPED):
                self._drop(worker)
                continue
            quick_sec = QUICK_SEC[worker.job.device.partition(":")[0]]
            quick = time.monotonic() - worker.started < quick_sec
            worker.quick_deaths = worker.quick_deaths + 1 if quick else 0
            most = MAX_QUICK_KILLS if code < 0 else MAX_QUICK_FAULTS
            final = self._stopping or code == EXIT_MISTAKE or worker.quick_deaths >= most
            deaths.append(Death(worker.job, code, final, worker.log_start))
            if final:
                self._drop(worker)
            else:
                with _uninterrupted():
                    worker.process.close()
                    worker.start()
        return deaths

    def stop(self, timeout_sec: float) -> None:
        """Ask all to give their trials back and end; kill those that don't in time."""
        self._stopping = True
        deadline = time.monotonic() + timeout_sec
        for worker in self._workers:
            worker.process.terminate()
        for worker in self._workers:
            worker.process.join(max(0.0, deadline - time.monotonic()))
        self.kill()

    def kill(self) -> None:
        """End all at once."""
        self._stopping = True
        for worker in self._workers:
            worker.process.kill()
        for worker in self._workers:
            worker.process.join()

    def _drop(self, worker: _Worker) -> None:
        worker.process.join()
        worker.process.close()
        self._workers.remove(worker)
