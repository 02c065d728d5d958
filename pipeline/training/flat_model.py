"""A net whose parameters lie in one vector: an update, a norm, an average is then one operation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pipeline.optimizers import parameter_groups


class FlatModel:
    """Moves a model's trainable parameters into one vector, of which they become views.

    The model computes what it did before, and stays where it is: a captured step finds other
    weights at the same addresses when they are loaded into the model.

    Args:
        model: with float32 parameters, on its device. Filters are laid out channels_last.

    Attributes:
        values: (P,) float32: first the weights, then biases and the parameters of norms.
        num_weights: how many values are weights.
        parameters: the model's parameters in that order.
    """

    def __init__(self, model: nn.Module) -> None:
        weights, others = parameter_groups(model)
        self.model, self.parameters = model, [*weights, *others]
        self.num_weights = sum(parameter.numel() for parameter in weights)
        self.values = flatten(self.parameters).detach()
        sizes = [parameter.numel() for parameter in self.parameters]
        for parameter, home in zip(self.parameters, torch.split(self.values, sizes), strict=True):
            parameter.data = _shaped(home, parameter.shape)

    def floats(self) -> list[Tensor]:
        """What makes up the model: the vector, and the buffers of its state that are real numbers.

        Counters are not among them, nor what is a setting, such as dropout's rate.
        """
        saved = self.model.state_dict()
        buffers = [buffer for name, buffer in self.model.named_buffers() if name in saved]
        return [self.values, *(buffer for buffer in buffers if buffer.is_floating_point())]


def flatten(tensors: Sequence[Tensor]) -> Tensor:
    """Parameters or their gradients as one vector, (P,), in the order of their memory."""
    return torch.cat([_in_memory_order(tensor).reshape(-1) for tensor in tensors])


def _in_memory_order(tensor: Tensor) -> Tensor:
    """Filters (O, I, H, W) as (O, H, W, I), which is how channels_last lays them out."""
    return tensor.permute(0, 2, 3, 1) if tensor.dim() == 4 else tensor


def _shaped(home: Tensor, shape: torch.Size) -> Tensor:
    """The part of the vector as a parameter of that shape."""
    if len(shape) != 4:
        return home.view(shape)
    outputs, inputs, height, width = shape
    return home.view(outputs, height, width, inputs).permute(0, 3, 1, 2)
