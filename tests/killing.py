"""A run of the command line that is killed in its midst, and run again."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from tests.commands import environment, regsearch_here
from tests.spaces import write_tiny
from tests.template import Forked


def kill_and_run_again(folder: Path, assignments: Sequence[str], once: str) -> str:
    """Run the tiny study, kill its process group once it prints `once`, and run it to its end here.

    Returns:
        What the second run printed.
    """
    write_tiny(folder)
    sets = [f"--set={text}" for text in assignments]
    arguments = ("run", "tiny.yaml", "--workers", "1", *sets)
    log = folder / "run.log"
    with log.open("wb") as out:
        run = Forked(arguments, folder, environment(), out)
        deadline = time.monotonic() + 200
        while once not in log.read_text() and time.monotonic() < deadline:
            time.sleep(0.02)
        os.killpg(run.pid, signal.SIGKILL)
        run.wait()
    assert once in log.read_text()
    done = regsearch_here(*arguments, cwd=folder)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout
