"""Half a cosine from the learning rate down (https://arxiv.org/abs/1608.03983, no restarts)."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from pipeline.lr_schedules.base import LrScheduleSettings, Multipliers, half_cosine


class CosineSettings(LrScheduleSettings):
    kind: Literal["cosine"] = "cosine"
    """The learning rate falls along half a cosine."""
    final_fraction: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Where it ends, as a fraction of the learning rate."""

    def multipliers(self, total_steps: int, steps_per_epoch: int) -> Multipliers:  # noqa: ARG002
        fall = half_cosine(np.arange(total_steps) / total_steps)
        return self.final_fraction + (1 - self.final_fraction) * fall
