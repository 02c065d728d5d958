"""What every learning-rate schedule shares: a warm-up, and multipliers laid out step by step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from pipeline.settings import Settings

Multipliers = npt.NDArray[np.float64]
"""(total_steps,) factors of the base learning rate, one an update."""

Gamma = Annotated[float, Field(gt=0, le=1)]


class Schedule:
    """The multiplier of the base learning rate at each update.

    Attributes:
        table: (total_steps,) float64, known before training starts.
        factor: on top of the table, for what training itself decides; 1 but for `plateau`.
    """

    def __init__(self, table: Multipliers) -> None:
        self.table = table
        self.factor = 1.0

    def multipliers(self, first: int, count: int = 1) -> Multipliers:
        """(count,) multipliers of the updates from `first` on, counted from 0."""
        return self.table[first : first + count] * self.factor

    def observe(self, validation_loss: float) -> None:
        """Told the validation loss after each epoch; most schedules do not react."""

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run cannot work out from the settings."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""


class LrScheduleSettings(Settings, ABC):
    """One kind of schedule. Subclasses give its multipliers; the warm-up is laid over them."""

    warmup_epochs: Annotated[float, Field(ge=0)] = 0.0
    """Linear rise from near 0 that multiplies the schedule's start, without shifting it."""

    @abstractmethod
    def multipliers(self, total_steps: int, steps_per_epoch: int) -> Multipliers:
        """(total_steps,) multipliers without the warm-up."""

    def build(self, num_epochs: int, steps_per_epoch: int) -> Schedule:
        """The schedule over `num_epochs` times `steps_per_epoch` updates."""
        return Schedule(self.table(num_epochs, steps_per_epoch))

    def table(self, num_epochs: int, steps_per_epoch: int) -> Multipliers:
        """(num_epochs * steps_per_epoch,) multipliers with the warm-up."""
        steps = np.arange(num_epochs * steps_per_epoch)
        ramp = np.minimum(1.0, (steps + 1) / max(1.0, self.warmup_epochs * steps_per_epoch))
        return ramp * self.multipliers(len(steps), steps_per_epoch)


def half_cosine(x: Multipliers) -> Multipliers:
    """From 1 at x = 0 to 0 at x = ±1, flat at both ends."""
    return (1 + np.cos(np.pi * x)) / 2
