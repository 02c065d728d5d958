"""The first signal ends a run in good order, wherever the program is when it comes."""

from __future__ import annotations

import os
import signal
import sys
import time

import pytest

from pipeline.interrupts import Terminated, interruptible


class Interrupted:
    """It is sent a signal while it is finalized, where Python drops what a handler raises."""

    def __init__(self, sent: signal.Signals) -> None:
        self.sent = sent

    def __del__(self) -> None:
        os.kill(os.getpid(), self.sent)


def work_that_is_interrupted_by(sent: signal.Signals) -> None:
    with interruptible():
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
