"""Processes that act on one study at the same instant.

A player gets commands and answers each. It stays for many rounds, and is forked from a process that
has loaded what it needs, as workers are: starting Python costs more than what is tested.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pipeline.workers.pool  # noqa: F401 - says what that process loads


class _Process(ForkServerProcess):
    """One that is waited for as a `Popen` is."""

    def wait(self) -> int | None:
        self.join()
        return self.exitcode


class Player:
    """One process."""

    def __init__(self, **env: str) -> None:
        self._connection, theirs = ForkServerContext().Pipe()
        self.process = _Process(target=play, args=(theirs, env), daemon=True)
        self.process.start()
        theirs.close()
        self.answer()  # it is ready

    def tell(self, **command: Any) -> None:
        self._connection.send(command)

    def answer(self) -> Any:
        try:
            return self._connection.recv()
        except EOFError:
            raise AssertionError(f"the player ended with {self.process.wait()}") from None

    def ask(self, **command: Any) -> Any:
        self.tell(**command)
        return self.answer()

    def close(self) -> None:
        self.process.kill()
        self.process.join()
        self.process.close()
        self._connection.close()


@contextmanager
def players(count: int, **env: str) -> Iterator[list[Player]]:
    team: list[Player] = []
    try:
        for _ in range(count):
            team.append(Player(**env))
        yield team
    finally:
        for player in team:
            player.close()


def at_once(team: Sequence[Player], **command: Any) -> list[Any]:
    """All do the same at the same instant; their answers."""
    start = time.time() + 0.2
    for player in team:
        player.tell(at=start, **command)
    return [player.answer() for player in team]


def play(connection: Connection, env: Mapping[str, str]) -> None:
    """A player's life, with these variables in its environment."""
    os.environ.update(env)
    time.tzset()
    from pipeline.study.ledger import Ledger
    from pipeline.study.storage import open_storage
    from tests.spaces import tiny_config

    def ledger(command: dict[str, Any]) -> Ledger:
        """The study's books, anew: the stores of earlier commands are closed, unless in use."""
        settings = [f"{key}={value}" for key, value in command.get("settings", {}).items()]
        config = tiny_config(folder, *settings)
        books = Ledger(config, open_storage(command["url"], patience_sec=60))
        if not held:
            while used:
                used.pop().close()
        used.append(books.store)
        return books

    def open_(command: dict[str, Any]) -> Any:
        return ledger(command).uuid

    def drain(command: dict[str, Any]) -> Any:
        """Claim and complete until nothing is left; which trials, and the time of each in sec."""
        books, done, took = ledger(command), [], []
        while not books.is_over():
            claim = books.claim()
            if claim is None:
                time.sleep(0.02)
                continue
            started = time.perf_counter()
            for epoch in range(1, command.get("epochs", 0) + 1):
                time.sleep(command.get("epoch_sec", 0.0))
                started = time.perf_counter()
                books.beat()
                books.report(claim, epoch, 0.5)
                took.append(time.perf_counter() - started)
            books.complete(claim, 0.5)
            done.append(claim.number)
        return {"done": done, "took": took}

    def claim(command: dict[str, Any]) -> Any:
        """Hold so many trials."""
        books = ledger(command)
        held.extend((books, books.claim()) for _ in range(command["count"]))
        return [taken.number for _, taken in held if taken is not None]

    def sweep(command: dict[str, Any]) -> Any:
        return [swept.number for swept in ledger(command).sweep()]

    def beat(command: dict[str, Any]) -> Any:
        """Beat for the trial that is held for some seconds; the longest that a beat took."""
        books, _ = held[0]
        until, longest = time.monotonic() + command["seconds"], 0.0
        while time.monotonic() < until:
            started = time.monotonic()
            books.beat()
            longest = max(longest, time.monotonic() - started)
            time.sleep(0.2)
        return longest

    def finish(command: dict[str, Any]) -> Any:
        """Complete what is held; the name of the error, if there is one."""
        books, taken = held.pop(0)
        try:
            books.report(taken, 1, command["value"])
            books.complete(taken, command["value"])
        except Exception as error:  # noqa: BLE001 - it is the answer
            return type(error).__name__
        return ""

    held: list[Any] = []
    used: list[Any] = []
    actions = {f.__name__.strip("_"): f for f in (open_, drain, claim, sweep, beat, finish)}
    with TemporaryDirectory() as name:
        folder = Path(name)
        connection.send("ready")
        while True:
            command = connection.recv()
            time.sleep(max(0.0, command.get("at", 0.0) - time.time()))
            connection.send(actions[command["do"]](command))
