"""The front of a search by several metrics, on points that anybody can draw."""

from __future__ import annotations

import math
import random

import optuna
import pytest
from optuna.trial import TrialState

from pipeline.study.front import by_first, by_metric, front, losses, spread, turned
from pipeline.study.store import SCORED

ACCURACY, ECE, GAP = "validation/accuracy", "validation/ece", "generalization_gap"


def test_nobody_on_the_front_is_beaten_in_all_metrics_and_all_others_are() -> None:
    #          best in one   between      best in two  beaten       beaten in one, equal in one
    points = [(1.0, 9.0), (3.0, 4.0), (8.0, 2.0), (4.0, 5.0), (3.0, 4.5)]
    assert front(points) == [0, 1, 2]
    assert front(points[::-1]) == [4, 3, 2]  # the best by the first metric first


def test_equal_points_are_on_the_front_together() -> None:
    assert front([(1.0, 2.0), (1.0, 2.0), (1.0, 3.0)]) == [0, 1]


def test_a_point_with_an_infinite_loss_is_on_no_front() -> None:
    assert front([(-math.inf, 1.0), (0.0, math.inf), (5.0, 5.0)]) == [2]


def test_the_front_of_many_points_is_what_the_definition_says() -> None:
    chance = random.Random(0)
    drawn = [tuple(chance.choice(range(8)) / 8 for _ in range(3)) for _ in range(200)]
    points = [point for point in drawn if sum(point) >= 1.0]

    def beats(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
        return one != other and all(a <= b for a, b in zip(one, other, strict=True))

    expected = {i for i, p in enumerate(points) if not any(beats(q, p) for q in points)}
    assert set(front(points)) == expected
    assert 3 < len(expected) < 60


def test_few_of_many_are_its_ends_and_then_what_lies_farthest_from_them() -> None:
    # In units of its range each metric counts alike: 1000 is no farther than 1.
    points = [(0.0, 1000.0), (0.1, 990.0), (0.4, 500.0), (0.5, 480.0), (1.0, 0.0)]
    assert spread(points, 3) == [0, 4, 3]
    assert spread(points, 9) == [0, 4, 3, 2, 1]
    assert spread(points, 0) == []
    assert spread([], 3) == []
    assert spread([(1.0, 2.0), (1.0, 2.0)], 2) == [0, 1]


def test_less_is_better_once_metrics_are_turned() -> None:
    assert turned([0.75, 0.25, 0.125], [ACCURACY, ECE, GAP]) == (-0.75, 0.25, 0.125)
    assert turned([math.nan, 0.25], [ACCURACY, ECE]) == (math.inf, 0.25)


def test_a_trial_of_several_metrics_is_seen_by_one() -> None:
    trial = optuna.create_trial(
        state=TrialState.COMPLETE,
        values=[0.75, 0.25],
        intermediate_values={1: 0.5},
        user_attrs={SCORED: {"epoch": 1, ACCURACY: 0.75, ECE: 0.25}},
    )
    with pytest.raises(RuntimeError, match="multi-objective"):
        _ = trial.value
    assert (by_first(trial).value, by_first(trial).intermediate_values) == (0.75, {1: 0.5})
    assert (by_metric(trial, ECE).value, by_metric(trial, ECE).intermediate_values) == (0.25, {})
    assert by_metric(trial, GAP).value is None
    assert losses(trial, [ACCURACY, ECE]) == (-0.75, 0.25)
    assert trial.values == [0.75, 0.25]
    assert trial.intermediate_values == {1: 0.5}


def test_a_trial_that_runs_has_no_value_by_any() -> None:
    running = optuna.create_trial(state=TrialState.RUNNING, intermediate_values={1: 0.5})
    assert by_first(running).value is None
