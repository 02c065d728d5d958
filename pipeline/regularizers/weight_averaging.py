"""An exponential moving average of the weights, scored in their stead
(https://arxiv.org/abs/1703.01780)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from pipeline.settings import Off, Settings

if TYPE_CHECKING:
    from torch import Tensor


class WeightAveragingSettings(Settings):
    ema_decay: Annotated[float, Field(ge=0, lt=1), Off(0.0)] = 0.0
    """What the average of the weights keeps of itself at each update; 0 scores the weights."""


class WeightAverage:
    """The moving average of the tensors that make up a model, on the model's device.

    BatchNorm's running statistics are averaged like the weights they belong to, so no pass over
    the data is needed to renew them. Early on the decay is min(decay, (1 + t) / (10 + t)) after t
    updates, or the initial weights would linger. With a decay of 0 the average is the weights,
    bit for bit. The decay is a tensor, so that one captured step serves every trial.

    Args:
        tensors: floating-point tensors of the model, which change in place.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._tensors = list(tensors)
        self._average = [tensor.detach().clone() for tensor in tensors]
        self._decay = self._average[0].new_zeros(())
        self._num_updates = self._average[0].new_zeros(())

    def reset(self, decay: float) -> None:
        """Begin anew with the tensors as they are, and a decay in [0, 1)."""
        import torch

        torch._foreach_copy_(self._average, self._tensors)
        self._decay.fill_(decay)
        self._num_updates.zero_()

    def update(self) -> None:
        """Take in the model's present state."""
        import torch

        warm_up = (1 + self._num_updates) / (10 + self._num_updates)
        share = 1 - torch.minimum(self._decay, warm_up)
        self._num_updates.add_(1)
        for average, tensor in zip(self._average, self._tensors, strict=True):
            average.lerp_(tensor, share)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model holds the average inside the `with`, and its own state again after it."""
        import torch

        own = [tensor.detach().clone() for tensor in self._tensors]
        torch._foreach_copy_(self._tensors, self._average)
        try:
            yield
        finally:
            torch._foreach_copy_(self._tensors, own)

    def state_dict(self) -> dict[str, Any]:
        """The average and the number of updates; tensors are not copied."""
        return {"num_updates": self._num_updates, "average": self._average}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state of the same architecture."""
        self._num_updates.copy_(state["num_updates"])
        for average, saved in zip(self._average, state["average"], strict=True):
            average.copy_(saved)
