"""A cut whenever the validation loss stops falling (the rule of torch's `ReduceLROnPlateau`)."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from pipeline.lr_schedules.base import Gamma, LrScheduleSettings, Multipliers, Schedule


class PlateauSettings(LrScheduleSettings):
    kind: Literal["plateau"] = "plateau"
    """The learning rate is cut when the validation loss no longer falls."""
    patience_epochs: Annotated[int, Field(ge=0)] = 3
    """Epochs without improvement that pass; the next one brings the cut."""
    gamma: Gamma = 0.1
    """Factor of each cut."""
    min_delta: Annotated[float, Field(ge=0)] = 1e-3
    """A fall of the validation loss by less than this is no improvement."""

    def multipliers(self, total_steps: int, steps_per_epoch: int) -> Multipliers:  # noqa: ARG002
        return np.ones(total_steps)

    def build(self, num_epochs: int, steps_per_epoch: int) -> Schedule:
        return PlateauSchedule(self, self.table(num_epochs, steps_per_epoch))


class PlateauSchedule(Schedule):
    """Warm-up by table; the cuts by what `observe` hears."""

    def __init__(self, settings: PlateauSettings, table: Multipliers) -> None:
        super().__init__(table)
        self._settings = settings
        self._best = math.inf
        self._num_bad_epochs = 0

    def observe(self, validation_loss: float) -> None:
        """Cut the learning rate when this epoch is one too many without improvement."""
        if validation_loss < self._best - self._settings.min_delta:
            self._best, self._num_bad_epochs = validation_loss, 0
            return
        self._num_bad_epochs += 1
        if self._num_bad_epochs > self._settings.patience_epochs:
            self.factor *= self._settings.gamma
            self._num_bad_epochs = 0

    def state_dict(self) -> dict[str, Any]:
        return {"factor": self.factor, "best": self._best, "num_bad_epochs": self._num_bad_epochs}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.factor, self._best = state["factor"], state["best"]
        self._num_bad_epochs = state["num_bad_epochs"]
