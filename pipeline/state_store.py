"""A folder with one state file a trial, shared by the processes of a study."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

from pipeline.state_file import (
    TEMPORARY,
    DamagedFileError,
    check_state,
    is_abandoned,
    load_state,
    save_state,
)


class StateStore:
    """The states of a study's trials. Nothing is kept in memory: the folder is the truth.

    Args:
        study_uuid: names the folder.
        root: where the studies' folders are.

    Attributes:
        folder: where this study's files are, or will be.
        suffix: of the files' names.
    """

    suffix: ClassVar[str]

    def __init__(self, study_uuid: str, root: Path) -> None:
        self.folder = root / study_uuid

    def path(self, trial: int) -> Path:
        """The trial's file, whether it exists or not."""
        return self.folder / f"trial-{trial:05d}{self.suffix}"

    def trials(self) -> list[int]:
        """The trials that have a file, in order."""
        name = re.compile(rf"trial-(\d+){re.escape(self.suffix)}")
        matches = (name.fullmatch(path.name) for path in self._files())
        return sorted(int(match[1]) for match in matches if match)

    def remove(self, trial: int) -> None:
        """Remove a trial's file, if there is one."""
        self.path(trial).unlink(missing_ok=True)

    def is_sound(self, trial: int) -> bool:
        """Whether the trial has a file, and it can be read."""
        return self.path(trial).exists() and trial not in dict(self.check())

    def check(self) -> list[tuple[int, str]]:
        """The trials whose files are damaged or unreadable, and what is wrong with them."""
        problems = []
        for trial in self.trials():
            try:
                check_state(self.path(trial))
            except FileNotFoundError:
                continue  # another process has removed it since
            except DamagedFileError as error:
                problems.append((trial, error.problem))
            except OSError as error:
                problems.append((trial, f"cannot be read: {error.strerror}"))
        return problems

    def size_bytes(self) -> int:
        """What the folder takes up, temporary files included."""
        total = 0
        for path in self._files():
            with suppress(FileNotFoundError):  # another process has removed it since
                total += path.stat().st_size
        return total

    def remove_leftovers(self) -> None:
        """Remove the temporary files of processes that died while they saved."""
        for path in self._files():
            if path.suffix == TEMPORARY and is_abandoned(path):
                path.unlink(missing_ok=True)

    def _write(self, trial: int, state: Mapping[Any, Any]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        save_state(self.path(trial), state)

    def _read(self, trial: int) -> dict[Any, Any]:
        return load_state(self.path(trial))

    def _files(self) -> list[Path]:
        return list(self.folder.iterdir()) if self.folder.exists() else []
