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


BOUNDABLE = (
    *METRICS,
    "validation/ece",
    "validation/brier",
    "train/loss",
    "train/accuracy",
    "train/clean_accuracy",
    "generalization_gap",
)
"""What a study can set a bound on: measured after each epoch, whatever the machine."""

_LESS_IS_BETTER = ("loss", "ece", "brier", "generalization_gap")


def direction(metric: str) -> Literal["minimize", "maximize"]:
    """The direction that a metric's name implies: losses, calibration errors and the generalization
    gap are minimized, all else is maximized."""
    return "minimize" if metric.endswith(_LESS_IS_BETTER) else "maximize"


def is_better(metric: str, value: float, than: float, min_delta: float = 0.0) -> bool:
    """Whether `value` improves on `than` by more than `min_delta`, in the metric's direction."""
    gain = value - than if direction(metric) == "maximize" else than - value
    return gain > min_delta


SCORES = ("loss", "accuracy", "balanced_accuracy", "macro_f1")
"""What `classification_scores` gives, in order."""


def classification_scores(logits: Tensor, labels: Tensor) -> Tensor:
    """Scores of a whole split at once, on its device; nothing waits for it.

    Args:
        logits: (N, K) float.
        labels: (N,) int64.

    Returns:
        (4,) float64, in the order of `SCORES`: `loss` (mean cross-entropy in nats), `accuracy`, and
        averaged over the classes that occur or are predicted, `balanced_accuracy` (recall) and
        `macro_f1`.
    """
    import torch
    from torch.nn.functional import cross_entropy

    num_classes = logits.shape[1]
    predicted = logits.argmax(dim=1)
    ones = torch.ones(len(labels), dtype=torch.float64, device=labels.device)
    confusion = ones.new_zeros(num_classes * num_classes)
    confusion = confusion.scatter_add_(0, labels * num_classes + predicted, ones)
    confusion = confusion.view(num_classes, num_classes)
    hits, actual, claimed = confusion.diagonal(), confusion.sum(dim=1), confusion.sum(dim=0)
    present = actual + claimed > 0
    num_present = present.sum()
    recall = hits / actual.clamp(min=1)
    f1 = 2 * hits / (actual + claimed).clamp(min=1)
    return torch.stack(
        [
            cross_entropy(logits.float(), labels).double(),
            hits.sum() / len(labels),
            (recall * present).sum() / num_present,
            (f1 * present).sum() / num_present,
        ]
    )


def classification_metrics(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """The same scores by name, on the host."""
    return dict(zip(SCORES, classification_scores(logits, labels).tolist(), strict=True))
