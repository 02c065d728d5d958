"""Optuna's relational storage, whose every call waits for a database that is locked or away."""

from __future__ import annotations

import functools
import gc
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from optuna.storages import RDBStorage

from pipeline.study.patience import LAST_PATIENCE_SEC, PATIENCE_SEC, persistent

SLOW_SEC = 1.0
"""A step that took so long was hindered: others may have been, too, and are silent for that."""


class PatientStorage(RDBStorage):
    """One connection to the store; threads may share it.

    Attributes:
        mode: what this thread's calls do: `reads` alone, or have their parameters `gathered`.
        patience_sec: how long a call is tried again.
    """

    def __init__(
        self, url: str, engine_kwargs: dict[str, Any], skip_compatibility_check: bool = False
    ) -> None:
        self.mode = threading.local()
        self.patience_sec = PATIENCE_SEC
        self._hindered = -math.inf
        super().__init__(url, engine_kwargs, skip_compatibility_check)

    def close(self) -> None:
        """Let its connections go; it can be used again."""
        self.scoped_session.remove()
        self.engine.dispose()

    def let_go(self, interrupt: KeyboardInterrupt) -> None:
        """Let go of what an interrupt has cut short, so that there can be a last word; from here on
        nobody waits long.

        SQLAlchemy can't be interrupted anywhere. A transaction that it has not noted yet, or no
        longer, stays open, and SQLite locked, while the traceback's frames hold the connection, or
        once it is back among the idle ones.
        """
        self.patience_sec = min(self.patience_sec, LAST_PATIENCE_SEC)
        interrupt.__traceback__ = interrupt.__context__ = None
        self.scoped_session.registry.clear()
        gc.collect()  # a connection that nobody holds comes back
        self.engine.dispose()

    def note_hindrance(self, started: float) -> None:
        """Remember it if a step that was begun at this `time.monotonic()` has taken long."""
        if time.monotonic() - started > SLOW_SEC:
            self._hindered = time.monotonic()

    @contextmanager
    def reading(self) -> Iterator[None]:
        """What is begun inside only reads, and so waits for no writer (see `storage`)."""
        before = getattr(self.mode, "reads", False)
        self.mode.reads = True
        try:
            yield
        finally:
            self.mode.reads = before


_READS = (
    "get_study_id_from_name",
    "get_study_name_from_id",
    "get_study_directions",
    "get_study_user_attrs",
    "get_study_system_attrs",
    "get_all_studies",
    "get_trial_id_from_study_id_trial_number",
    "get_trial_param",
    "get_trial",
    "_get_trials",
    "_get_best_trial_id",
)
_WRITES = (
    "create_new_study",
    "set_study_user_attr",
    "set_study_system_attr",
    "set_trial_user_attr",
    "set_trial_system_attr",
)


def _patient(name: str, *, reads: bool) -> Callable[..., Any]:
    """Optuna's own method, as patient as `persistent` steps are."""
    method = getattr(RDBStorage, name)

    @functools.wraps(method)
    @persistent
    def patient(store: PatientStorage, *args: Any, **kwargs: Any) -> Any:
        if not reads:
            return method(store, *args, **kwargs)
        with store.reading():
            return method(store, *args, **kwargs)

    return patient


for _name in _READS:
    setattr(PatientStorage, _name, _patient(_name, reads=True))
for _name in _WRITES:
    setattr(PatientStorage, _name, _patient(_name, reads=False))
