"""The first signal ends a run in good order, wherever the program is when it comes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from pipeline.interrupts import Terminated, interruptible, raise_if_lost, resend_lost
from pipeline.workers.worker import STOP_SIGNAL, _arm

ROOT = Path(__file__).parents[1]


class Interrupted:
    """It is sent a signal while it is finalized, where Python drops what a handler raises."""

    def __init__(self, sent: signal.Signals) -> None:
        self.sent = sent

    def __del__(self) -> None:
        os.kill(os.getpid(), self.sent)


def test_a_signal_at_the_exit_ends_the_process_without_a_traceback() -> None:
    """As the second of two Ctrl-C that come close together."""
    code = (
        "import atexit, os, signal\n"
        "from pipeline.interrupts import leave_at_once\n"
        "atexit.register(os.kill, os.getpid(), signal.SIGINT)\n"
        "leave_at_once()\n"
        "print('stopped', flush=True)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "stopped\n", "")


def work_that_is_interrupted_by(sent: signal.Signals) -> None:
    with interruptible():
        sleep_after(sent)


def test_a_workers_signal_to_stop_is_not_lost_either() -> None:
    """Else it would train on for ever once its coordinator is gone."""
    with interruptible():  # which leaves all as it was
        resend_lost(_arm)
        _arm()
        with pytest.raises(KeyboardInterrupt):
            sleep_after(STOP_SIGNAL)


def test_a_signal_that_a_library_drops_is_raised_again_where_the_program_asks() -> None:
    raise_if_lost()  # nothing was
    with interruptible():
        with suppress(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)
        with pytest.raises(Terminated):
            raise_if_lost()
    raise_if_lost()  # the next run has nothing to do with it


def sleep_after(sent: signal.Signals) -> None:
    Interrupted(sent)
    time.sleep(10)


@pytest.mark.parametrize(
    ("sent", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)]
)
def test_a_signal_that_comes_during_a_finalizer_is_not_lost(
    sent: signal.Signals, raised: type[KeyboardInterrupt]
) -> None:
    hook, handlers = sys.unraisablehook, [signal.getsignal(s) for s in (sent, signal.SIGTERM)]
    with pytest.raises(raised) as told:
        work_that_is_interrupted_by(sent)
    assert told.type is raised
    assert sys.unraisablehook is hook
    assert [signal.getsignal(s) for s in (sent, signal.SIGTERM)] == handlers
