"""A cut every so many epochs."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from pipeline.lr_schedules.base import Gamma, LrScheduleSettings, Multipliers


class StepSettings(LrScheduleSettings):
    kind: Literal["step"] = "step"
    """The learning rate is cut at regular intervals."""
    step_epochs: Annotated[int, Field(ge=1)] = 10
    """Epochs between two cuts."""
    gamma: Gamma = 0.1
    """Factor of each cut."""

    def multipliers(self, total_steps: int, steps_per_epoch: int) -> Multipliers:
        num_cuts = np.arange(total_steps) // (self.step_epochs * steps_per_epoch)
        return np.power(self.gamma, num_cuts)
