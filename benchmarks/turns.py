"""Contenders that take turns, epoch by epoch, each in a process of its own.

A process keeps what a user's has: its OpenMP settings, its DataLoader workers. While one trains the
others are at rest.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from benchmarks.cases import Case
from pipeline.datasets import Splits

Environment = dict[str, str | None]
AS_IT_COMES: Environment = {"GOMP_SPINCOUNT": None, "OMP_WAIT_POLICY": None}
SHORT_SPINS: Environment = {"GOMP_SPINCOUNT": "10000", "OMP_WAIT_POLICY": None}
"""How the `regsearch` command has idle OpenMP threads wait: briefly at work, then asleep."""
ALL_CORES = "regsearch, a worker a core"
_SPAWN = multiprocessing.get_context("spawn")


@dataclass(frozen=True)
class Contender:
    """A loop of `benchmarks.loops`, and the environment that its user runs it in."""

    loop: str
    environment: Environment


CONTENDERS = {
    "regsearch": Contender("regsearch", SHORT_SPINS),
    ALL_CORES: Contender("regsearch, one thread", SHORT_SPINS),
    "tutorial": Contender("tutorial", AS_IT_COMES),
    "tutorial, short spins": Contender("tutorial", SHORT_SPINS),
    "tuned": Contender("tuned", SHORT_SPINS),
}


class Team:
    """A player a core, that train side by side; `turn` is an epoch of all of them."""

    def __init__(self, name: str, case: Case, splits: Splits, seed: int, num_epochs: int) -> None:
        cores = range(len(os.sched_getaffinity(0)))
        self.players = [Player(name, case, splits, seed + i, num_epochs) for i in cores]

    def turn(self) -> tuple[float, float]:
        """Images per second of all together, and the first one's validation accuracy."""
        started = time.perf_counter()
        for player in self.players:
            player.begin()
        accuracies = [player.end()[1] for player in self.players]
        seconds = time.perf_counter() - started
        return sum(player.num_images for player in self.players) / seconds, accuracies[0]

    def close(self) -> None:
        """End the processes."""
        for player in self.players:
            player.close()


def contender(name: str, case: Case, splits: Splits, seed: int, num_epochs: int) -> Player | Team:
    """A contender, ready for its first turn."""
    kind = Team if name == ALL_CORES else Player
    return kind(name, case, splits, seed, num_epochs)


class Player:
    """One contender in its process; `turn` trains an epoch."""

    def __init__(self, name: str, case: Case, splits: Splits, seed: int, num_epochs: int) -> None:
        contender = CONTENDERS[name]
        self.num_images = len(splits.train) // case.batch_size * case.batch_size
        self.connection, child = _SPAWN.Pipe()
        arguments = (child, contender.loop, case, splits, seed, num_epochs)
        self.process = _SPAWN.Process(target=_play, args=arguments)
        with _environment(contender.environment):
            self.process.start()
        child.close()
        self.connection.recv()  # until it has loaded what it needs: nobody is to start meanwhile

    def turn(self) -> tuple[float, float]:
        """An epoch's images per second of training, and the validation accuracy after it.

        Raises:
            EOFError: the contender has failed; it has told why on stderr.
        """
        self.begin()
        return self.end()

    def begin(self) -> None:
        """Start the next epoch, and wait for nothing."""
        self.connection.send(None)

    def end(self) -> tuple[float, float]:
        """What `turn` gives, of the epoch that was begun."""
        seconds, accuracy = self.connection.recv()
        return self.num_images / seconds, accuracy

    def close(self) -> None:
        """End the process, before its time if need be."""
        self.connection.close()
        self.process.join()


def _play(
    connection: Connection[Any, Any],
    loop: str,
    case: Case,
    splits: Splits,
    seed: int,
    num_epochs: int,
) -> None:
    from benchmarks.loops import LOOPS

    def report(seconds: float, accuracy: float) -> None:
        connection.send((seconds, accuracy))
        connection.recv()

    try:
        connection.send(None)
        connection.recv()
        LOOPS[loop](case, splits, seed, num_epochs, report)
    except (EOFError, BrokenPipeError):  # the other end has heard enough
        return


@contextmanager
def _environment(changes: Environment) -> Iterator[None]:
    """The variables set, or unset where None, for the processes started inside the `with`."""
    before = {name: os.environ.get(name) for name in changes}
    _set(changes)
    try:
        yield
    finally:
        _set(before)


def _set(changes: Environment) -> None:
    for name, value in changes.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
