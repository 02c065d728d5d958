"""One cycle: up to the learning rate, then far below the start
(https://arxiv.org/abs/1708.07120; the two half-cosines of torch's `OneCycleLR`)."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from pipeline.lr_schedules.base import LrScheduleSettings, Multipliers, half_cosine


class OneCycleSettings(LrScheduleSettings):
    """Its rise is a warm-up of its own; `warmup_epochs` goes on top and is best left at 0."""

    kind: Literal["one_cycle"] = "one_cycle"
    """The learning rate is the peak of one rise and fall."""
    rise_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.3
    """Part of the training in which it rises."""
    initial_fraction: Annotated[float, Field(ge=0, le=1)] = 1 / 25
    """Where it starts, as a fraction of the learning rate."""
    final_fraction: Annotated[float, Field(ge=0, le=1)] = 4e-6
    """Where it ends, as a fraction of the learning rate."""

    def multipliers(self, total_steps: int, steps_per_epoch: int) -> Multipliers:  # noqa: ARG002
        last = max(total_steps - 1, 1)  # a single update is made at the peak
        peak = max(self.rise_fraction * total_steps - 1, 0.0)
        phase = np.interp(np.arange(total_steps), [0.0, peak, last], [-1.0, 0.0, 1.0])
        floor = np.where(phase < 0, self.initial_fraction, self.final_fraction)
        return floor + (1 - floor) * half_cosine(phase)
