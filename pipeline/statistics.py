"""How good a classifier is, and how sure that figure is."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist

import numpy as np
import numpy.typing as npt


def wilson_interval(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """The Wilson score interval of a proportion, as (low, high) within [0, 1].

    It stays inside [0, 1] and keeps its coverage near 0 and 1, where good classifiers are and the
    textbook interval fails (Brown, Cai & DasGupta 2001, https://doi.org/10.1214/ss/1009213286).

    Raises:
        ValueError: `successes` is not within 0 to `trials`, or there are no trials.
    """
    if not 0 <= successes <= trials or trials == 0:
        raise ValueError(f"{successes} successes in {trials} trials have no proportion")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share, shrink = successes / trials, 1 + z**2 / trials
    centre = (share + z**2 / (2 * trials)) / shrink
    half = z / shrink * sqrt(share * (1 - share) / trials + z**2 / (4 * trials**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def paired_difference(
    ours: npt.NDArray[np.bool_], theirs: npt.NDArray[np.bool_], confidence: float = 0.95
) -> tuple[float, float]:
    """By how much one classifier's accuracy is higher than another's on the same images.

    Images that both tell right, or both wrong, say nothing about which is better: only the others
    count. Their difference is far surer than the two accuracies are (Agresti, Categorical Data
    Analysis, 3rd ed., 11.1.1).

    Args:
        ours, theirs: (N,), whether each told each image right; N > 0.

    Returns:
        The difference of the accuracies in [-1, 1], and half the width of its interval.
    """
    n = len(ours)
    gained, lost = int((ours & ~theirs).sum()), int((theirs & ~ours).sum())
    difference = (gained - lost) / n
    variance = ((gained + lost) / n - difference**2) / n
    return difference, NormalDist().inv_cdf((1 + confidence) / 2) * sqrt(max(variance, 0.0))


@dataclass(frozen=True)
class Scores:
    """How a model did on labelled images.

    Args:
        accuracy_low, accuracy_high: the 95 % Wilson interval of the accuracy.
        loss: mean negative log-likelihood of the labels, in nats; a probability that underflowed
            counts as the smallest float32.
        class_accuracy: share of each class's images that were told right; `None` without images.
        confusion: counts, [true class][predicted class].
    """

    num_images: int
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    loss: float
    class_accuracy: dict[str, float | None]
    confusion: tuple[tuple[int, ...], ...]


def score(
    probabilities: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int64],
    class_names: tuple[str, ...],
) -> Scores:
    """Scores of probabilities (N, K) against labels (N,), with N > 0."""
    num_images, num_classes = probabilities.shape
    cells = labels * num_classes + probabilities.argmax(axis=1)
    confusion = np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)
    hits, sizes = confusion.diagonal(), confusion.sum(axis=1)
    of_label = probabilities[np.arange(num_images), labels].clip(np.finfo(np.float32).tiny)
    low, high = wilson_interval(int(hits.sum()), num_images)
    return Scores(
        num_images=num_images,
        accuracy=float(hits.sum() / num_images),
        accuracy_low=low,
        accuracy_high=high,
        loss=float(-np.log(of_label.astype(np.float64)).mean()),
        class_accuracy={
            name: float(hit / size) if size else None
            for name, hit, size in zip(class_names, hits, sizes, strict=True)
        },
        confusion=tuple(tuple(int(count) for count in row) for row in confusion),
    )
