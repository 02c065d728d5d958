"""Whole searches as processes that tests start and kill, and how they are looked at."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import optuna
from mlflow import MlflowClient
from optuna.trial import FrozenTrial, TrialState

from pipeline.events import EpochEnded, Event, TrialStarted
from pipeline.journal import JournalReader
from pipeline.study.storage import open_storage
from pipeline.study.store import OWNER
from tests.commands import environment
from tests.template import Forked

STORE = "sqlite:///mlruns/optuna.db"


@dataclass
class Search:
    """`regsearch run` in the current folder, as a process group of its own; `anew` with nothing
    loaded."""

    arguments: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    anew: bool = False

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        arguments, env = ("run", *self.arguments), environment(**self.env)
        self.process: subprocess.Popen[bytes] | Forked
        with Path("run.log").open("a") as log:
            if self.anew:
                command = [sys.executable, "-m", "pipeline", *arguments]
                self.process = subprocess.Popen(
                    command, env=env, stdout=log, stderr=log, start_new_session=True
                )
            else:
                self.process = Forked(arguments, Path.cwd(), env, log)

    def is_over(self) -> bool:
        return self.process.poll() is not None

    def finish(self, timeout_sec: float = 300) -> int:
        """Its exit code."""
        try:
            return self.process.wait(timeout_sec)
        finally:
            self.kill()

    def kill(self) -> None:
        """kill -9 of the whole process group."""
        with suppress(ProcessLookupError):  # it has ended
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def trials(store_url: str = STORE, study: str = "tiny") -> list[FrozenTrial]:
    """The study's trials; none while there is no study."""
    if store_url == STORE and not Path("mlruns/optuna.db").exists():
        return []
    store = open_storage(store_url)
    try:
        return optuna.load_study(study_name=study, storage=store).get_trials()
    except KeyError:
        return []
    finally:
        store.close()


def kill_a_worker(chance: random.Random) -> int | None:
    """kill -9 of the process of a running trial; which trial, if there was one to kill."""
    running = [t for t in trials() if t.state == TrialState.RUNNING and t.user_attrs.get(OWNER)]
    if not running:
        return None
    victim = chance.choice(running)
    pid = int(victim.user_attrs[OWNER].split("|")[2])
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:  # it was quicker
        return None
    return victim.number


def wait_until(condition: object, timeout_sec: float = 120.0) -> None:
    """Until a function says so."""
    assert callable(condition)
    deadline = time.monotonic() + timeout_sec
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.1)


def journal() -> list[Event]:
    """All that any process has written down."""
    (folder,) = Path("mlruns/journal").iterdir()
    return JournalReader(folder).read()


def attempts() -> dict[int, list[TrialStarted]]:
    """The starts of each trial, in order."""
    found: dict[int, list[TrialStarted]] = defaultdict(list)
    for event in journal():
        if isinstance(event, TrialStarted):
            found[event.trial].append(event)
    return found


def stalls_sec(start: float, end: float) -> list[float]:
    """Of each epoch that ended between two times, in seconds since 1970: how long it and the one
    before it were apart, less its training. What is left are scoring, the books and waiting."""
    last: dict[tuple[int, int], int] = {}
    stalls = []
    for event in journal():
        if isinstance(event, EpochEnded):
            key = event.trial, event.attempt
            if key in last and start <= event.time_ms / 1000 <= end:
                took = (event.time_ms - last[key]) / 1000
                stalls.append(took - event.metrics["epoch_sec"])
            last[key] = event.time_ms
    return stalls


def mlflow_runs(kind: str, client: MlflowClient | None = None) -> list[object]:
    """The study's run, or its trials'."""
    client = client or MlflowClient()
    (experiment,) = client.search_experiments(filter_string="name = 'tiny'")
    return list(
        client.search_runs(
            [experiment.experiment_id], f"tags.`regsearch.kind` = '{kind}'", max_results=1000
        )
    )
