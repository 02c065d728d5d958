"""The checkpoints of a study's unfinished trials: what a killed training goes on from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from pipeline.state_store import StateStore

CHECKPOINTS_ROOT = Path("mlruns/checkpoints")


class CheckpointStore(StateStore):
    """The last epoch's state (`Trainer.state_dict`) of each trial; see `StateStore`."""

    suffix: ClassVar[str] = ".ckpt"

    def __init__(self, study_uuid: str, root: Path = CHECKPOINTS_ROOT) -> None:
        super().__init__(study_uuid, root)

    def save(self, trial: int, state: Mapping[str, Any]) -> None:
        """Replace a trial's checkpoint.

        Raises:
            OSError: it could not be written, as on a full disk; the old one is as it was.
        """
        self._write(trial, state)

    def load(self, trial: int) -> dict[str, Any] | None:
        """A trial's checkpoint with its tensors on the CPU, or None where there is none.

        Raises:
            DamagedFileError: it is not, or no longer, what was saved.
        """
        try:
            return self._read(trial)
        except FileNotFoundError:
            return None
