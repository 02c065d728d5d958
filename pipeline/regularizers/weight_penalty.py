"""L1 and L2 penalties on the weights, added to the loss: coupled, through the gradient.

Under Adam a coupled L2 differs from `weight_decay`, which is decoupled
(https://arxiv.org/abs/1711.05101); both can be searched side by side.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from pipeline.settings import Off, Settings

if TYPE_CHECKING:
    from torch import Tensor


class WeightPenaltySettings(Settings):
    l1: Annotated[float, Field(ge=0), Off(0.0)] = 0.0
    """Factor of the sum of |w| over the weights, without biases and norm parameters."""
    l2: Annotated[float, Field(ge=0), Off(0.0)] = 0.0
    """Factor of half the sum of w² over the weights, without biases and norm parameters."""


def penalty(weights: Tensor, l1: Tensor, l2: Tensor) -> tuple[Tensor, Tensor]:
    """l1 · Σ|w| + l2 / 2 · Σw², 0-d, and its gradient l1 · sign(w) + l2 · w, 0 at 0.

    Both are written out, since backward through the sums would take longer than all the rest.

    Args:
        weights: (P,), all of them; `optimizers.parameter_groups` tells them from biases and norms.
        l1: 0-d and not a float, so that one captured step serves every factor.
        l2: likewise.
    """
    value = l1 * weights.abs().sum() + l2 / 2 * weights.square().sum()
    return value, l1 * weights.sign() + l2 * weights
