"""Processes that act on one study at the same instant.

A player reads commands, a line of JSON each, and answers each with a line. It stays for many
rounds, since starting Python costs more than what is tested.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

ROOT = Path(__file__).parents[2]


class Player:
    """One process."""

    def __init__(self, **env: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.players"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1", **env},
        )
        self.answer()  # it is ready

    def tell(self, **command: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()

    def answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"the player ended with {self.process.wait()}"
        return json.loads(line)

    def ask(self, **command: Any) -> Any:
        self.tell(**command)
        return self.answer()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            stream.close()


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


def main() -> None:
    """A player's life."""
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
        print(json.dumps("ready"), flush=True)
        for line in sys.stdin:
            command = json.loads(line)
            time.sleep(max(0.0, command.get("at", 0.0) - time.time()))
            print(json.dumps(actions[command["do"]](command)), flush=True)


if __name__ == "__main__":
    main()
