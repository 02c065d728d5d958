"""The metrics: their names, their directions, and how they are computed.

Everything is summed on the device; one copy an epoch goes to the host.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from torch import Tensor

Metric = Literal[
    "validation/accuracy",
    "validation/loss",
    "validation/balanced_accuracy",
    "validation/macro_f1",
]
"""What a study can optimize."""

METRICS: tuple[str, ...] = get_args(Metric)


def direction(metric: str) -> Literal["minimize", "maximize"]:
    """The direction that a metric's name implies: a loss is minimized, all else maximized."""
    return "minimize" if metric.endswith("loss") else "maximize"


def is_better(metric: str, value: float, than: float, min_delta: float = 0.0) -> bool:
    """Whether `value` improves on `than` by more than `min_delta`, in the metric's direction."""
    gain = value - than if direction(metric) == "maximize" else than - value
    return gain > min_delta


def classification_metrics(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Scores of a whole split at once.

    Args:
        logits: (N, K) float.
        labels: (N,) int64.

    Returns:
        `loss` (mean cross-entropy in nats), `accuracy`, and, averaged over the classes that occur
        or are predicted, `balanced_accuracy` (recall) and `macro_f1`.
    """
    import torch
    from torch.nn.functional import cross_entropy
    from torchmetrics.functional.classification import multiclass_accuracy, multiclass_f1_score

    predicted, num_classes = logits.argmax(dim=1), logits.shape[1]
    values = {
        "loss": cross_entropy(logits.float(), labels),
        "accuracy": (predicted == labels).float().mean(),
        "balanced_accuracy": multiclass_accuracy(
            predicted, labels, num_classes, average="macro", validate_args=False
        ),
        "macro_f1": multiclass_f1_score(
            predicted, labels, num_classes, average="macro", validate_args=False
        ),
    }
    return dict(zip(values, torch.stack(list(values.values())).tolist(), strict=True))
