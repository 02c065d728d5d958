"""Label smoothing: the target is mixed with the uniform one (https://arxiv.org/abs/1512.00567)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from pipeline.settings import Off, Settings

if TYPE_CHECKING:
    from torch import Tensor


class LabelSmoothingSettings(Settings):
    label_smoothing: Annotated[float, Field(ge=0, lt=1), Off(0.0)] = 0.0
    """Part of the target that is spread evenly over all classes."""


def smoothed_cross_entropy(logits: Tensor, labels: Tensor, smoothing: Tensor) -> Tensor:
    """Cross-entropy of each sample with its smoothed target.

    Written out because `F.cross_entropy` takes a float, of which every value is another graph.

    Args:
        logits: (N, K), any float dtype; the loss is computed in float32.
        labels: (N,) int64 in [0, K).
        smoothing: 0-d, in [0, 1).

    Returns:
        (N,) float32; with smoothing 0, the plain cross-entropy.
    """
    log_probabilities = logits.float().log_softmax(dim=1)
    on_label = -log_probabilities.gather(1, labels[:, None]).squeeze(1)
    on_all = -log_probabilities.mean(dim=1)
    return (1 - smoothing) * on_label + smoothing * on_all
