"""Several trained nets that answer as one."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Ensemble(nn.Module):
    """The mean of the probabilities of several nets.

    Args:
        nets: at least one; each maps images (N, C, H, W) to logits (N, K). They are not copied.
    """

    def __init__(self, nets: Sequence[nn.Module]) -> None:
        super().__init__()
        self.nets = nn.ModuleList(nets)

    def forward(self, images: Tensor) -> Tensor:
        """Logs of the mean probabilities, (N, K): logits whose softmax is that mean."""
        logs = torch.stack([net(images).log_softmax(dim=1) for net in self.nets])
        return logs.logsumexp(dim=0) - math.log(len(self.nets))
