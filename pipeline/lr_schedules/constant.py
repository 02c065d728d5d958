"""The learning rate as it is."""

from __future__ import annotations

from typing import Literal

import numpy as np

from pipeline.lr_schedules.base import LrScheduleSettings, Multipliers


class ConstantSettings(LrScheduleSettings):
    kind: Literal["constant"] = "constant"
    """The same learning rate throughout."""

    def multipliers(self, total_steps: int, steps_per_epoch: int) -> Multipliers:  # noqa: ARG002
        return np.ones(total_steps)
