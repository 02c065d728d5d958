"""Cuts at chosen points of the training."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, field_validator

from pipeline.lr_schedules.base import Gamma, LrScheduleSettings, Multipliers


class MultiStepSettings(LrScheduleSettings):
    kind: Literal["multi_step"] = "multi_step"
    """The learning rate is cut at given points."""
    milestones: Annotated[
        tuple[Annotated[float, Field(gt=0, lt=1)], ...], Field(min_length=1, strict=False)
    ] = (0.5, 0.75)
    """Where the cuts are, as fractions of the training, increasing."""
    gamma: Gamma = 0.1
    """Factor of each cut."""

    @field_validator("milestones")
    @classmethod
    def _increasing(cls, milestones: tuple[float, ...]) -> tuple[float, ...]:
        if any(later <= earlier for earlier, later in pairwise(milestones)):
            raise ValueError("milestones must increase")
        return milestones

    def multipliers(self, total_steps: int, steps_per_epoch: int) -> Multipliers:  # noqa: ARG002
        # Rounded, since 0.55 * 20 is a little more than 11.
        cuts = np.round(np.multiply(self.milestones, total_steps))
        num_cuts = np.searchsorted(cuts, np.arange(total_steps), side="right")
        return np.power(self.gamma, num_cuts)
