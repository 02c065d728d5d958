"""The champion: which nets of the winner's settings are registered, and why these."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pipeline.answers import Gain
from pipeline.nets import Nets


@dataclass(frozen=True, eq=False)
class Refit:
    """The winner's settings trained once more, on the training and validation images.

    Args:
        nets: as many as are registered of the winner.
        num_epochs: that they were trained for.
        gain: over the winner's nets without the validation images.
    """

    nets: Nets
    num_epochs: int
    gain: Gain

    @property
    def is_worse(self) -> bool:
        """Whether it is worse than without, beyond what chance allows on these images."""
        gain, half = self.gain
        return gain + half < 0

    def to_json(self) -> dict[str, Any]:
        """As part of the finalists' table in MLflow."""
        mean, half = self.nets.selection or (None, None)
        return {
            "num_epochs": self.num_epochs,
            "selection_mean": mean,
            "selection_half_width": half,
            "gain": self.gain[0],
            "gain_half_width": self.gain[1],
            "registered": not self.is_worse,
        }


@dataclass(frozen=True, eq=False)
class Champion:
    """What is registered.

    Args:
        winner: the winner's nets, one or several.
        over_single: what several gain over the mean of the same nets one by one; None for one net.
        refit: None where there is none.
        notes: what is to be known of it, a line each.
    """

    winner: Nets
    over_single: Gain | None = None
    refit: Refit | None = None
    notes: tuple[str, ...] = field(default=())

    @property
    def nets(self) -> Nets:
        """Those that are registered."""
        return self.winner if self.refit is None or self.refit.is_worse else self.refit.nets

    def to_json(self) -> dict[str, Any]:
        """As part of the finalists' table in MLflow."""
        mean, half = self.winner.selection or (None, None)
        return {
            "num_nets": len(self.nets.trials),
            "selection_mean": mean,
            "selection_half_width": half,
            "refit": None if self.refit is None else self.refit.to_json(),
        }
