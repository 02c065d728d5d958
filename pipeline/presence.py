"""Whether a run of a study is going on, on this machine: a lock that a killed process lets go."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.journal import journal_folder

_NAME = "present.lock"


@contextmanager
def present(study_uuid: str) -> Iterator[None]:
    """Inside, `is_anybody_present`; several runs of one study may be."""
    path = journal_folder(study_uuid) / _NAME
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        yield


def is_anybody_present(study_uuid: str) -> bool:
    """Whether a run of the study is going on, on this machine."""
    path = Path(journal_folder(study_uuid) / _NAME)
    if not path.exists():
        return False
    with path.open("r") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
