"""Waiting for a store that is locked or away, and trying again."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Concatenate, ParamSpec, Protocol, TypeVar

import sqlalchemy as sql
from optuna.exceptions import StorageInternalError

from pipeline.errors import UserError, redact

PATIENCE_SEC = 300.0
"""How long a store that is locked or away is waited for, beyond its own timeout."""

LAST_PATIENCE_SEC = 1.0
"""The same, for a process that has been interrupted and is to end."""

_FIRST_PAUSE_SEC, _MAX_PAUSE_SEC = 0.05, 2.0
_STORE_ERRORS = (StorageInternalError, sql.exc.DBAPIError, sql.exc.PendingRollbackError)
_PERMANENT = ("no such", "readonly", "read-only", "does not exist", "authentication")


class Waited(Protocol):
    """What a store says about being waited for.

    Attributes:
        patience_sec: how long a step is tried again.
    """

    patience_sec: float

    def note_hindrance(self, started: float) -> None:
        """Told when each try began, a `time.monotonic()`."""


S = TypeVar("S", bound=Waited)
P = ParamSpec("P")
T = TypeVar("T")


class StoreAwayError(UserError):
    """The store has been locked or away for longer than anybody waits."""


def persistent(step: Callable[Concatenate[S, P], T]) -> Callable[Concatenate[S, P], T]:
    """A step that waits for a locked store and reconnects to one that was away."""

    @functools.wraps(step)
    def retried(store: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        started, pause_sec = time.monotonic(), _FIRST_PAUSE_SEC
        while True:
            try:
                return step(store, *args, **kwargs)
            except _STORE_ERRORS as error:
                if not _is_transient(error):
                    raise
                waited_sec = time.monotonic() - started
                if waited_sec > store.patience_sec:
                    raise _away(error, waited_sec) from None
            finally:
                store.note_hindrance(started)
            time.sleep(pause_sec)
            pause_sec = min(2 * pause_sec, _MAX_PAUSE_SEC)

    return retried


def _away(error: Exception, waited_sec: float) -> StoreAwayError:
    cause = error if isinstance(error, sql.exc.DBAPIError) else error.__cause__
    reason = redact(str(getattr(cause, "orig", cause))).partition("\n")[0]
    return StoreAwayError(
        f"the study's store has not answered for {waited_sec:.0f} s: {reason}",
        where="--storage",
        cure="bring it back (or end what locks it); the same command goes on",
    )


def _is_transient(error: BaseException) -> bool:
    cause = error.__cause__ if isinstance(error, StorageInternalError) else error
    if isinstance(cause, sql.exc.PendingRollbackError):
        return True  # Optuna went on with a session whose connection had been lost
    return isinstance(cause, sql.exc.OperationalError | sql.exc.InterfaceError) and not any(
        word in str(cause.orig) for word in _PERMANENT
    )
