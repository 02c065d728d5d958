"""SIGINT and SIGTERM: the first ends a run in good order, the second ends it at once."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

AGAIN_SEC = 0.05
_asked: type[KeyboardInterrupt] | None = None
"""What a signal has raised; None before."""
UnraisableHook = Callable[["sys.UnraisableHookArgs"], object]


class Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a run as Ctrl-C does."""


@contextmanager
def interruptible() -> Iterator[None]:
    """Inside, the first SIGINT raises `KeyboardInterrupt` and the first SIGTERM `Terminated`.

    The next one kills the worker processes and this one; what they leave is mended by the next run.
    Both are taken even where a shell has made this process ignore SIGINT, as it does for jobs in
    the background.
    """
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, _interrupt)
    hook = resend_lost(_again)
    _remember(None)
    try:
        yield
    finally:
        _remember(None)
        sys.unraisablehook = hook
        for number, handler in before.items():
            signal.signal(number, handler)


def resend_lost(arm: Callable[[KeyboardInterrupt], signal.Signals]) -> UnraisableHook:
    """Have a signal sent again whose exception was lost: it came while Python ran a finalizer or a
    weak reference's callback, as SQLAlchemy has them, and what is raised in one reaches nobody.

    Args:
        arm: sets the handler again; says which signal it was.

    Returns:
        Python's hook of before.
    """
    hook = sys.unraisablehook

    def unraisable(lost: sys.UnraisableHookArgs) -> None:
        if isinstance(lost.exc_value, KeyboardInterrupt):
            _remember(None)  # or it would be raised twice, the second time in the cleaning up
            later = threading.Timer(AGAIN_SEC, os.kill, (os.getpid(), arm(lost.exc_value)))
            later.daemon = True
            later.start()
        else:
            hook(lost)

    sys.unraisablehook = unraisable
    return hook


def interrupt(kind: type[KeyboardInterrupt]) -> NoReturn:
    """Raise it, and remember that it was: see `raise_if_lost`."""
    _remember(kind)
    raise kind


def raise_if_lost() -> None:
    """Raise an interrupt again if there was one, for whoever should have ended by it and goes on.

    Libraries may drop what a signal's handler raises inside of them: pydantic's serializer, when it
    asks which kind of a union it has, takes any exception for a no.
    """
    if _asked is not None:
        raise _asked


def leave_at_once() -> None:
    """From here on a signal ends the process: Python's own handler would raise in whatever runs at
    the exit, which prints a traceback."""
    signal.signal(signal.SIGINT, _leave)
    signal.signal(signal.SIGTERM, _leave)


def _interrupt(number: int, _: FrameType | None) -> None:
    leave_at_once()
    interrupt(Terminated if number == signal.SIGTERM else KeyboardInterrupt)


def _remember(kind: type[KeyboardInterrupt] | None) -> None:
    global _asked
    _asked = kind


def _again(lost: KeyboardInterrupt) -> signal.Signals:
    signal.signal(signal.SIGINT, _interrupt)
    signal.signal(signal.SIGTERM, _interrupt)
    return signal.SIGTERM if isinstance(lost, Terminated) else signal.SIGINT


def _leave(number: int, _: FrameType | None) -> None:
    for child in multiprocessing.active_children():
        child.kill()
    if sys.stdout.isatty():
        os.write(sys.stdout.fileno(), b"\x1b[?25h\n")  # a live view has hidden the cursor
    os._exit(128 + number)
