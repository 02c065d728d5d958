"""SIGINT and SIGTERM: the first ends a run in good order, the second ends it at once."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import NoReturn

AGAIN_SEC = 0.05
UnraisableHook = Callable[["sys.UnraisableHookArgs"], object]


@dataclass
class _Signalled:
    """What signals have asked of this process.

    Attributes:
        asked: what to raise, since a signal came; None before.
        is_due: it has not been raised yet.
        num_postponing: so many parts of the program want it to wait.
    """

    asked: type[KeyboardInterrupt] | None = None
    is_due: bool = False
    num_postponing: int = 0


_signalled = _Signalled()


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
    _forget()
    try:
        yield
    finally:
        _forget()
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
            later = threading.Timer(AGAIN_SEC, os.kill, (os.getpid(), arm(lost.exc_value)))
            later.daemon = True
            later.start()
        else:
            hook(lost)

    sys.unraisablehook = unraisable
    return hook


def interrupt(kind: type[KeyboardInterrupt]) -> None:
    """Raise it, unless it is postponed, and remember that it was asked for."""
    _signalled.asked, _signalled.is_due = kind, True
    if not _signalled.num_postponing:
        _raise()


@contextmanager
def postponed() -> Iterator[None]:
    """What is begun inside is not cut short: an interrupt is raised at its end.

    SQLAlchemy can't be interrupted anywhere: what is raised between the beginning of a transaction
    and its being noted leaves it open, and SQLite locked, for as long as somebody holds the
    traceback.
    """
    if threading.current_thread() is not threading.main_thread():  # signals are the main one's
        yield
        return
    _signalled.num_postponing += 1
    try:
        yield
    finally:
        _signalled.num_postponing -= 1
        if _signalled.is_due and not _signalled.num_postponing:
            _raise()


def raise_if_lost() -> None:
    """Raise an interrupt again if there was one, for whoever should have ended by it and goes on.

    Libraries may drop what a signal's handler raises inside of them: pydantic's serializer, when it
    asks which kind of a union it has, takes any exception for a no.
    """
    if _signalled.asked is not None:
        _raise()


def leave_at_once() -> None:
    """From here on a signal ends the process: Python's own handler would raise in whatever runs at
    the exit, which prints a traceback."""
    signal.signal(signal.SIGINT, _leave)
    signal.signal(signal.SIGTERM, _leave)


def _interrupt(number: int, _: FrameType | None) -> None:
    leave_at_once()
    interrupt(Terminated if number == signal.SIGTERM else KeyboardInterrupt)


def _forget() -> None:
    _signalled.asked, _signalled.is_due = None, False


def _raise() -> NoReturn:
    assert _signalled.asked is not None
    _signalled.is_due = False
    raise _signalled.asked


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
