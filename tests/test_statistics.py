"""Scores against hand-computed numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pipeline.statistics import (
    brier_score,
    crossed_mean,
    expected_calibration_error,
    paired_seeds,
    score,
    wilson_interval,
)


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
    # excesses 1/2, 0, -1/2, 1/2 at confidences 1/2, 1, 1/2, 1/2: bins of sums 1/2 and 0
    assert scores.ece == 0.5 / 4
    # (1/4 + 2/16) for a hit at 1/2, 0 for certainty, (1/4 + 9/16 + 1/16) for the miss
    assert scores.brier == (0.375 + 0 + 0.875 + 0.375) / 4
    assert scores.class_accuracy == {"cat": 1.0, "dog": pytest.approx(2 / 3), "bird": None}
    assert scores.confusion == ((1, 0, 0), (1, 2, 0), (0, 0, 0))


def test_a_probability_of_zero_has_a_finite_loss() -> None:
    scores = score(np.array([[1, 0]], np.float32), np.array([1]), ("cat", "dog"))
    assert scores.loss == pytest.approx(126 * math.log(2), rel=1e-6)  # float32: 2**-126


def test_calibration_error_of_six_images_in_four_bins() -> None:
    # confidence: 0.5 is the upper edge of its bin, so 0.5625 and 0.75 are in the next
    confidence = np.array([0.5, 0.5, 0.5625, 0.75, 1.0, 0.875], np.float32)
    probabilities = np.stack([confidence, 1 - confidence], axis=1)
    labels = np.array([0, 1, 1, 0, 0, 0])
    # (0.25, 0.5]: right 1 of 2, sure of 1.0 of 2; (0.5, 0.75]: 1 of 2 and 1.3125; (0.75, 1]: 2 of 2
    # and 1.875
    assert expected_calibration_error(probabilities, labels, bins=4) == (0 + 0.3125 + 0.125) / 6
    assert expected_calibration_error(probabilities, labels, bins=1) == (4.1875 - 4) / 6


def test_calibration_error_takes_every_probability() -> None:
    """Of a single class, and above 1 by a rounding error."""
    above = np.nextafter(np.ones((1, 1), np.float32), np.float32(2))
    assert expected_calibration_error(above, np.array([0])) == pytest.approx(0, abs=2e-7)
    assert expected_calibration_error(np.zeros((1, 2), np.float32), np.array([1])) == 0


@pytest.mark.parametrize(
    ("probabilities", "expected"), [((1, 0, 0), 0), ((0, 1, 0), 2), ((0.5, 0.25, 0.25), 0.375)]
)
def test_brier_score_of_one_image(probabilities: tuple[float, ...], expected: float) -> None:
    given = np.array([probabilities], np.float32)
    assert brier_score(given, np.array([0])) == expected
    assert given.tolist() == [list(probabilities)], "what was given is left as it was"


def crossed(seeds: list[int], images: list[int], together: list[list[int]]) -> np.ndarray:
    """A table that is the sum of its effects: each of them sums up to 0."""
    return np.array(seeds)[:, None] + np.array(images) + np.array(together, float)


@pytest.mark.parametrize(
    ("values", "mean", "half"),
    [
        # MS 900, 1600 and 576, one degree of freedom each: variance (900 + 1600 - 576) / 4 = 481,
        # freedom 1924² / (900² + 1600² + 576²) = 1, t = 12.7062
        (crossed([-15, 15], [-20, 20], [[12, -12], [-12, 12]]), 0, 12.7062 * math.sqrt(481)),
        # MS 3 and 3, none left: variance 6 / 9, freedom 6² / (3² / 2 + 3² / 2) = 4, t = 2.77645
        (np.array([[0.0, 1, 2], [1, 2, 3], [2, 3, 4]]), 2, 2.77645 * math.sqrt(6 / 9)),
        # MS 0, 27 and 1: seeds differ by less than chance, which leaves 27 / 9 and 2 degrees
        (
            crossed([0, 0, 0], [-3, 0, 3], [[1, -1, 0], [-1, 1, 0], [0, 0, 0]]),
            0,
            4.30265 * math.sqrt(3),
        ),
        # MS 0, 0 and 1: chance alone, which leaves 1 / 9, 4 degrees
        (
            crossed([0, 0, 0], [0, 0, 0], [[1, -1, 0], [-1, 1, 0], [0, 0, 0]]),
            0,
            2.77645 / 3,
        ),
        # one seed: Student's interval of 5 images, variance (4 + 1 + 0 + 1 + 4) / 4 / 5
        (np.array([[1.0, 2, 3, 4, 5]]), 3, 2.77645 * math.sqrt(0.5)),
        (np.ones((3, 4)), 1, 0),
    ],
)
def test_crossed_mean_by_hand(values: np.ndarray, mean: float, half: float) -> None:
    assert crossed_mean(values) == pytest.approx((mean, half), rel=1e-4, abs=1e-12)
    # in another order of seeds and images it is the same table
    assert crossed_mean(values[::-1, ::-1]) == pytest.approx((mean, half), rel=1e-4, abs=1e-12)


def test_crossed_mean_at_another_confidence() -> None:
    values = np.array([[0.0, 1, 2], [1, 2, 3], [2, 3, 4]])
    assert crossed_mean(values, 0.9)[1] == pytest.approx(2.131847 * math.sqrt(6 / 9), rel=1e-6)


@pytest.mark.parametrize(
    "values", [np.zeros((0, 5)), np.zeros((3, 1)), np.array([[0.0, 1.0, math.nan]])]
)
def test_too_little_has_no_interval(values: np.ndarray) -> None:
    with pytest.raises(ValueError, match="have no interval"):
        crossed_mean(values)


@pytest.mark.parametrize("seed_sd", [0.0, 0.01, 0.03])
def test_the_interval_covers_new_seeds_and_new_images(seed_sd: float) -> None:
    """400 times 5 nets on 400 images: an image is easy or not for all nets, each errs on some."""
    chance = np.random.default_rng(0)
    easy = chance.random((400, 1, 400)) < 0.9
    errs = chance.random((400, 5, 400)) < 0.05
    values = (easy ^ errs) + chance.normal(0, seed_sd, (400, 5, 1))
    mean = 0.9 * 0.95 + 0.1 * 0.05
    intervals = np.array([crossed_mean(table) for table in values])
    covered = (np.abs(intervals[:, 0] - mean) <= intervals[:, 1]).mean()
    assert 0.92 <= covered <= 0.98  # 0.95, with a standard error of 0.011


def test_seeds_are_compared_in_pairs() -> None:
    """What both nets find hard cancels out: the differences are the table of MS 3 and 3."""
    hard = np.array([[7.0, 0, 5], [1, 9, 2], [4, 4, 8]])
    ours = hard + np.array([[0.0, 1, 2], [1, 2, 3], [2, 3, 4]])
    assert paired_seeds(ours, hard) == pytest.approx((2, 2.77645 * math.sqrt(6 / 9)), rel=1e-4)
    assert paired_seeds(hard, ours)[0] == -2
    right = np.array([[True, False], [True, True]])
    assert paired_seeds(right, ~right)[0] == 0.5


def test_other_seeds_or_images_make_no_pairs() -> None:
    with pytest.raises(ValueError, match=r"\(3, 4\) and \(1, 4\)"):
        paired_seeds(np.zeros((3, 4)), np.zeros((1, 4)))
