"""The layer behind dropout, spatial dropout and stochastic depth: a random mask, drawn anew."""

from __future__ import annotations

from collections.abc import Container
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from pipeline.regularizers import RegularizationSettings


class RandomMask(nn.Module):
    """Zeroes parts of its input at random and scales the rest by 1 / (1 - rate); identity in eval.

    The rate is a 0-d tensor, so that one compiled or captured step serves every rate, 0 among them.
    A layer that is not `enabled` is skipped, which is another graph. The mask comes from the
    device's default generator.

    Args:
        setting: the key of `RegularizationSettings` that holds the rate.
        drawn_dims: the mask is drawn along so many leading dimensions and shared along the rest:
            1 drops whole samples, 2 whole channels, `None` single elements.
        share: the part of that setting's rate that this layer takes, in [0, 1].
    """

    rate: Tensor

    def __init__(self, setting: str, drawn_dims: int | None = None, share: float = 1.0) -> None:
        super().__init__()
        self.setting, self.drawn_dims, self.share = setting, drawn_dims, share
        self.enabled = False
        self.register_buffer("rate", torch.zeros(()), persistent=False)

    def set_rate(self, rate: float) -> None:
        """Take `share` of a rate in [0, 1), in place."""
        if not 0 <= rate < 1:
            raise ValueError(f"{self.setting} is {rate}, outside [0, 1)")
        self.rate.fill_(self.share * rate)
        self.enabled = self.share * rate > 0

    def forward(self, x: Tensor) -> Tensor:
        """Any shape to the same shape and dtype."""
        if not (self.training and self.enabled):
            return x
        num_drawn = x.dim() if self.drawn_dims is None else self.drawn_dims
        shape = x.shape[:num_drawn] + (1,) * (x.dim() - num_drawn)
        # In float32 under autocast too: bfloat16 would know only 256 rates. The small mask is
        # scaled, not x, so that the activations are read and written once.
        kept = torch.rand(shape, device=x.device) >= self.rate
        return x * (kept / (1 - self.rate)).to(x.dtype)

    def extra_repr(self) -> str:
        return f"{self.setting}, share={self.share:g}"


def set_rates(
    model: nn.Module, settings: RegularizationSettings, enabled: Container[str] = ()
) -> None:
    """Give every mask of a model its rate, in place: a new trial in the same storage.

    Args:
        enabled: the settings whose masks are drawn even at a rate of 0, where they change nothing.
    """
    for module in model.modules():
        if isinstance(module, RandomMask):
            module.set_rate(getattr(settings, module.setting))
            module.enabled = module.enabled or module.setting in enabled
