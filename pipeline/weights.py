"""The weights that a study keeps: its best trial's and its baselines', as plain tensors on disk."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

import torch
from torch import Tensor, nn

WEIGHTS_ROOT = Path("mlruns/weights")


class WeightStore:
    """One file a trial, under the study's own folder.

    Args:
        study_uuid: names the folder.
        root: where the studies' folders are.
    """

    def __init__(self, study_uuid: str, root: Path = WEIGHTS_ROOT) -> None:
        self.folder = root / study_uuid

    def path(self, trial: int) -> Path:
        return self.folder / f"trial-{trial:05d}.pt"

    def save(self, trial: int, model: nn.Module) -> None:
        """Write a model's state, whole or not at all: a temporary file, flushed, then renamed."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.path(trial)
        temporary = path.with_suffix(".tmp")
        state = {name: value.detach().cpu() for name, value in model.state_dict().items()}
        with temporary.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)

    def load(self, trial: int) -> dict[str, Tensor]:
        """A trial's state, read as tensors only; no code in the file is run.

        Raises:
            FileNotFoundError: when this trial's weights were not kept.
        """
        state: dict[str, Tensor] = torch.load(
            self.path(trial), map_location="cpu", weights_only=True
        )
        return state

    def keep_only(self, trials: Collection[int]) -> None:
        """Remove all other trials' weights, and what a crash left half written."""
        kept = {self.path(trial) for trial in trials}
        for path in self.folder.glob("trial-*"):
            if path not in kept:
                path.unlink()
