"""Contenders that take turns, epoch by epoch, each in a process of its own.

A process keeps what a user's has: its OpenMP settings, its DataLoader workers. While one trains the
others are at rest.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

from benchmarks.cases import Case
from pipeline.datasets import Splits

OMP_WAIT_POLICY = {"regsearch": "passive", "tutorial": None, "tuned": "passive"}
"""As the `regsearch` command sets it; a tutorial knows nothing of it, one who tunes does."""
_SPAWN = multiprocessing.get_context("spawn")


class Player:
    """One contender in its process; `turn` trains an epoch."""

    def __init__(self, name: str, case: Case, splits: Splits, seed: int, num_epochs: int) -> None:
        self.connection, child = _SPAWN.Pipe()
        arguments = (child, name, case, splits, seed, num_epochs)
        self.process = _SPAWN.Process(target=_play, args=arguments)
        with _environment({"OMP_WAIT_POLICY": OMP_WAIT_POLICY[name]}):
            self.process.start()
        child.close()

    def turn(self) -> tuple[float, float]:
        """An epoch's seconds of training, and the validation accuracy after it.

        Raises:
            EOFError: the contender has failed; it has told why on stderr.
        """
        self.connection.send(None)
        seconds, accuracy = self.connection.recv()
        return seconds, accuracy

    def close(self) -> None:
        """End the process, before its time if need be."""
        self.connection.close()
        self.process.join()


def _play(
    connection: Connection[Any, Any],
    name: str,
    case: Case,
    splits: Splits,
    seed: int,
    num_epochs: int,
) -> None:
    from benchmarks.contenders import CONTENDERS

    def report(seconds: float, accuracy: float) -> None:
        connection.send((seconds, accuracy))
        connection.recv()

    try:
        connection.recv()
        CONTENDERS[name](case, splits, seed, num_epochs, report)
    except (EOFError, BrokenPipeError):  # the other end has heard enough
        return


@contextmanager
def _environment(changes: Mapping[str, str | None]) -> Iterator[None]:
    """The variables set, or unset where None, for the processes started inside the `with`."""
    before = {name: os.environ.get(name) for name in changes}
    _set(changes)
    try:
        yield
    finally:
        _set(before)


def _set(changes: Mapping[str, str | None]) -> None:
    for name, value in changes.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
