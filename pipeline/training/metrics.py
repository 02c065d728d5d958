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
    "validation/ece",
    "validation/brier",
]
"""What a study can optimize. `ece` alone doesn't tell how often a net is right: a blind guess can
be calibrated to perfection."""

Objective = Metric | Literal["generalization_gap"]
"""What a study can optimize beside a metric."""

MINIMIZED = ("loss", "ece", "brier")
"""Scores that are better the lower they are."""

METRICS: tuple[str, ...] = get_args(Metric)


BOUNDABLE = (
    *METRICS,
    "train/loss",
    "train/accuracy",
    "train/clean_accuracy",
    "generalization_gap",
)
"""What a study can set a bound on: measured after each epoch, whatever the machine."""


def direction(metric: str) -> Literal["minimize", "maximize"]:
    """The direction that a metric's name implies: errors and the generalization gap are minimized,
    all else is maximized."""
    less = (*MINIMIZED, "generalization_gap")
    return "minimize" if metric.rpartition("/")[2] in less else "maximize"


def is_better(metric: str, value: float, than: float, min_delta: float = 0.0) -> bool:
    """Whether `value` improves on `than` by more than `min_delta`, in the metric's direction."""
    gain = value - than if direction(metric) == "maximize" else than - value
    return gain > min_delta


SCORES = ("loss", "accuracy", "balanced_accuracy", "macro_f1", "ece", "brier")
"""What `classification_scores` gives, in order."""


def classification_scores(logits: Tensor, labels: Tensor) -> Tensor:
    """Scores of a whole split at once, on its device; nothing waits for it.

    Args:
        logits: (N, K) float.
        labels: (N,) int64.

    Returns:
        (6,) float64, in the order of `SCORES`: `loss` (mean cross-entropy in nats), `accuracy`;
        averaged over the classes that occur or are predicted, `balanced_accuracy` (recall) and
        `macro_f1`; `ece` and `brier` as `pipeline.statistics` defines them.
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
            *_calibration(logits, labels),
        ]
    )


def _calibration(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Expected calibration error and Brier score, 0-d float64; arguments as above.

    The same as `expected_calibration_error` and `brier_score` of `pipeline.statistics`.
    """
    import torch

    from pipeline.statistics import ECE_BINS

    probabilities = logits.float().softmax(dim=1)
    confidence, predicted = probabilities.max(dim=1)
    confidence = confidence.double()
    excess = (predicted == labels).double() - confidence
    # After the clamp a probability that is no number has a bin too, and makes its sum none.
    index = ((confidence * ECE_BINS).ceil().long() - 1).clamp(0, ECE_BINS - 1)
    # A sum over members, not scatter_add_, whose order of addition on a GPU is left to chance.
    members = index[:, None] == torch.arange(ECE_BINS, device=labels.device)
    ece = (excess[:, None] * members).sum(dim=0).abs().sum() / len(labels)
    minus_one = -torch.ones_like(probabilities[:, :1])
    errors = probabilities.scatter_add(1, labels[:, None], minus_one)
    return ece, errors.square().sum(dim=1).double().mean()


def classification_metrics(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """The same scores by name, on the host."""
    return dict(zip(SCORES, classification_scores(logits, labels).tolist(), strict=True))
