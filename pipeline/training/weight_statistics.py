"""How large a net's weights are, layer by layer: what decay and penalties have left of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

NEAR_ZERO = 1e-3
"""A weight that is smaller than this counts as near zero."""


@dataclass(frozen=True)
class LayerStatistics:
    """The weights of one layer, without its bias.

    Args:
        mean_abs: mean of |w|.
        std: population standard deviation, 0 for a single weight.
        near_zero_share: share of the weights with |w| < `NEAR_ZERO`, in [0, 1].
    """

    mean_abs: float
    std: float
    near_zero_share: float
    num_weights: int


@torch.no_grad()
def weight_statistics(model: nn.Module) -> dict[str, LayerStatistics]:
    """Statistics of each layer that has weights of two dimensions or more, in the net's order.

    Norms, whose weights have one, are left out; weights that layers share count once. Everything
    is computed on the model's device, in float64, and copied to the host at once.

    Returns:
        By the layer's name within the model, `weight` where the model is that layer itself; by the
        parameter's where it isn't called `weight`, as attention's `in_proj_weight`.
    """
    weights = {
        name.removesuffix(".weight"): parameter
        for name, parameter in model.named_parameters()
        if name.endswith("weight") and parameter.dim() >= 2
    }
    if not weights:
        return {}
    table = torch.stack([_of(weight) for weight in weights.values()]).tolist()
    return {
        name: LayerStatistics(mean_abs, std, near_zero_share, weight.numel())
        for (name, weight), (mean_abs, std, near_zero_share) in zip(
            weights.items(), table, strict=True
        )
    }


def _of(weight: Tensor) -> Tensor:
    """(3,) float64 on the device: `mean_abs`, `std`, `near_zero_share`."""
    values = weight.double()
    near_zero = (values.abs() < NEAR_ZERO).double()
    return torch.stack([values.abs().mean(), values.std(correction=0), near_zero.mean()])


def as_table(statistics: Mapping[str, LayerStatistics]) -> list[dict[str, str | float | int]]:
    """One row a layer, for JSON: `layer`, then the fields of `LayerStatistics`."""
    return [{"layer": layer, **asdict(row)} for layer, row in statistics.items()]
