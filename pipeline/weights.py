"""The weights that a study keeps: its best trial's and its baselines', as plain tensors on disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pipeline.state_store import StateStore

if TYPE_CHECKING:
    from torch import Tensor, nn

WEIGHTS_ROOT = Path("mlruns/weights")


class WeightStore(StateStore):
    """One model's state a trial; see `StateStore`."""

    suffix: ClassVar[str] = ".pt"

    def __init__(self, study_uuid: str, root: Path = WEIGHTS_ROOT) -> None:
        super().__init__(study_uuid, root)

    def save(self, trial: int, model: nn.Module) -> None:
        """Write a model's state, whole or not at all.

        Raises:
            OSError: it could not be written, as on a full disk; an old file is as it was.
        """
        self._write(trial, model.state_dict())

    def load(self, trial: int) -> dict[str, Tensor]:
        """A trial's state on the CPU, read as tensors only; no code in the file is run.

        Raises:
            FileNotFoundError: this trial's weights were not kept.
            DamagedFileError: the file is not, or no longer, what was saved.
        """
        return self._read(trial)

    def keep_only(self, needed: Callable[[int], bool]) -> None:
        """Remove the weights of the trials that are not needed, and what a crash left half written.

        Args:
            needed: asked for each trial that has a file, after they were listed. So what it reads
                of the study is newer than the list, and weights that are saved meanwhile are safe.
                A trial that still runs is needed: its weights come before its verdict.
        """
        for trial in self.trials():
            if not needed(trial):
                self.remove(trial)
        self.remove_leftovers()
