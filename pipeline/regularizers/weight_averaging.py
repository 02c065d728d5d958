"""An exponential moving average of the weights, scored in their stead
(https://arxiv.org/abs/1703.01780)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from pipeline.settings import Off, Settings

if TYPE_CHECKING:
    from torch import Tensor, nn


class WeightAveragingSettings(Settings):
    ema_decay: Annotated[float, Field(ge=0, lt=1), Off(0.0)] = 0.0
    """What the average of the weights keeps of itself at each update; 0 scores the weights."""


class WeightAverage:
    """The moving average of a model's parameters and buffers, on the model's device.

    BatchNorm's running statistics are averaged like the weights they belong to, so no pass over
    the data is needed to renew them; integers (its counter) are copied. Early on the decay is
    min(decay, (1 + t) / (10 + t)) after t updates, or the initial weights would linger.

    Args:
        model: what the average starts from.
        decay: in [0, 1).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.num_updates = 0
        self._average = {name: value.clone() for name, value in model.state_dict().items()}

    def update(self, model: nn.Module) -> None:
        """Take in the model's present state. Not for a captured step: the decay is a float."""
        import torch

        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        self.num_updates += 1
        averages, values = [], []
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                averages.append(self._average[name])
                values.append(value)
            else:
                self._average[name].copy_(value)
        torch._foreach_lerp_(averages, values, 1 - decay)

    def copy_to(self, model: nn.Module) -> None:
        """Overwrite the model's state with the average, in the same storage."""
        model.load_state_dict(self._average)

    @contextmanager
    def applied_to(self, model: nn.Module) -> Iterator[None]:
        """The model holds the average inside the `with`, and its own state again after it."""
        own = {name: value.clone() for name, value in model.state_dict().items()}
        self.copy_to(model)
        try:
            yield
        finally:
            model.load_state_dict(own)

    def state_dict(self) -> dict[str, Any]:
        """The average and the number of updates; tensors are not copied."""
        return {"num_updates": self.num_updates, "average": self._average}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state of the same architecture."""
        saved: dict[str, Tensor] = state["average"]
        for name, value in self._average.items():
            value.copy_(saved[name])
        self.num_updates = state["num_updates"]
