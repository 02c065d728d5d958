"""Scores against hand-computed numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pipeline.statistics import paired_difference, score, wilson_interval


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [  # the formula by hand, with z = 1.96
        (5, 10, 0.2366, 0.7634),
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
        (9_000, 10_000, 0.8940, 0.9057),
    ],
)
def test_wilson_interval_has_the_published_values(
    successes: int, trials: int, low: float, high: float
) -> None:
    assert wilson_interval(successes, trials) == pytest.approx((low, high), abs=5e-5)


def test_more_confidence_takes_a_wider_interval() -> None:
    assert wilson_interval(5, 10, 0.99)[0] < wilson_interval(5, 10, 0.9)[0]


@pytest.mark.parametrize(("successes", "trials"), [(0, 0), (-1, 5), (6, 5)])
def test_no_proportion_has_no_interval(successes: int, trials: int) -> None:
    with pytest.raises(ValueError, match="no proportion"):
        wilson_interval(successes, trials)


def test_scores_of_four_images() -> None:
    probabilities = np.array(
        [[0.5, 0.25, 0.25], [0.0, 1.0, 0.0], [0.5, 0.25, 0.25], [0.25, 0.5, 0.25]], np.float32
    )
    scores = score(probabilities, np.array([0, 1, 1, 1]), ("cat", "dog", "bird"))
    assert scores.num_images == 4
    assert scores.accuracy == 0.75
    assert (scores.accuracy_low, scores.accuracy_high) == wilson_interval(3, 4)
    assert scores.loss == pytest.approx((math.log(2) + 0 + math.log(4) + math.log(2)) / 4)
    assert scores.class_accuracy == {"cat": 1.0, "dog": pytest.approx(2 / 3), "bird": None}
    assert scores.confusion == ((1, 0, 0), (1, 2, 0), (0, 0, 0))


def test_a_probability_of_zero_has_a_finite_loss() -> None:
    scores = score(np.array([[1, 0]], np.float32), np.array([1]), ("cat", "dog"))
    assert scores.loss == pytest.approx(126 * math.log(2), rel=1e-6)  # float32: 2**-126


def test_a_paired_difference_counts_the_images_on_which_two_differ() -> None:
    """Of 100 images, 12 told right by ours alone and 4 by theirs alone."""
    ours, theirs = np.zeros(100, bool), np.zeros(100, bool)
    ours[:62], theirs[12:66] = True, True
    difference, half = paired_difference(ours, theirs)
    assert difference == pytest.approx(0.08)
    # sqrt((0.16 - 0.08 ** 2) / 100) = sqrt(0.001536) = 0.039192, times 1.96
    assert half == pytest.approx(0.07681, abs=5e-5)
    assert paired_difference(ours, ours) == (0.0, 0.0)
