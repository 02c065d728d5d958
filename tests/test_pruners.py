"""One contract for every pruner, and each one's rule by hand. Epochs are counted from 1."""

from typing import get_args

import optuna
import pytest
from pydantic import TypeAdapter, ValidationError

from pipeline.study.pruners import AnyPruner, build_pruner

ADAPTER = TypeAdapter(AnyPruner)
MEMBERS = get_args(get_args(AnyPruner)[0])
KINDS = [get_args(member.model_fields["kind"].annotation)[0] for member in MEMBERS]
NUM_EPOCHS = 12

# Settings of each kind, and the epochs in which a trial may be pruned that is always the worst.
CONTRACT = {
    "none": ({}, {None}),
    "median": ({"startup_trials": 4, "warmup_epochs": 5}, {6}),
    "percentile": ({"startup_trials": 4, "warmup_epochs": 3}, {4}),
    "patient": ({"startup_trials": 4, "warmup_epochs": 5, "patience_epochs": 2}, {6}),
    "hyperband": ({"min_epochs": 2, "reduction_factor": 3}, {2, 6}),  # by the trial's bracket
    "successive_halving": ({"min_epochs": 3, "reduction_factor": 2}, {3}),
    "threshold": ({"lower": -0.5, "upper": 0.5, "warmup_epochs": 4}, {5}),
}


def study_of(kind, direction="maximize", **given):
    settings = ADAPTER.validate_python({"kind": kind, **given})
    pruner = build_pruner(settings, NUM_EPOCHS)
    sampler = optuna.samplers.RandomSampler(seed=0)
    return optuna.create_study(study_name="s", direction=direction, pruner=pruner, sampler=sampler)


def run(study, *values):
    """Report one value an epoch; the epoch in which the trial was pruned, None if it was not."""
    trial = study.ask()
    for epoch, value in enumerate(values, start=1):
        trial.report(value, epoch)
        if trial.should_prune():
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            return epoch
    study.tell(trial, values[-1])
    return None


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(params=["maximize", "minimize"])
def direction(request):
    return request.param


def with_earlier_trials(kind, direction, given):
    """A study with thirty middling trials; the sign that makes larger values better."""
    study, sign = study_of(kind, direction, **given), 1 if direction == "maximize" else -1
    for number in range(30):
        run(study, *[sign * (0.2 + 0.005 * number)] * NUM_EPOCHS)
    return study, sign


def test_the_worst_trial_is_pruned_and_never_in_the_warm_up(kind, direction):
    given, epochs = CONTRACT[kind]
    study, sign = with_earlier_trials(kind, direction, given)
    for worst in (-0.9, -1.0, -1.1, -1.2, -1.3):
        sinking = [sign * (worst - 0.001 * epoch) for epoch in range(NUM_EPOCHS)]
        assert run(study, *sinking) in epochs


def test_the_best_trial_is_kept(kind, direction):
    study, sign = with_earlier_trials(kind, direction, CONTRACT[kind][0])
    rising = [sign * (0.46 + 0.001 * epoch) for epoch in range(NUM_EPOCHS)]
    assert run(study, *rising) is None


def test_the_default_settings_build_a_pruner(kind):
    given = {"lower": 0.0} if kind == "threshold" else {}
    assert run(study_of(kind, **given), *[0.5] * NUM_EPOCHS) is None


def filled(kind, **given):
    """A study whose first four trials stood at 0.1, 0.2, 0.3 and 0.4."""
    study = study_of(kind, **{"startup_trials": 4, "warmup_epochs": 0, **given})
    for value in (0.1, 0.2, 0.3, 0.4):
        run(study, *[value] * NUM_EPOCHS)
    return study


def test_no_trial_is_pruned_before_enough_have_run():
    assert run(filled("median", startup_trials=5), *[0.0] * NUM_EPOCHS) is None
    assert run(filled("median", startup_trials=4), *[0.0] * NUM_EPOCHS) == 1


def test_median_by_hand():
    """The median of the four is 0.25, and it is a trial's best value so far that counts."""
    assert run(filled("median"), *[0.24] * NUM_EPOCHS) == 1
    assert run(filled("median"), *[0.26] * NUM_EPOCHS) is None
    assert run(filled("median"), 0.26, *[0.0] * (NUM_EPOCHS - 1)) is None


def test_percentile_by_hand():
    """The best quarter begins at 0.325, by linear interpolation between 0.3 and 0.4."""
    assert run(filled("percentile", percentile=25.0), *[0.32] * NUM_EPOCHS) == 1
    assert run(filled("percentile", percentile=25.0), *[0.33] * NUM_EPOCHS) is None
    assert run(filled("percentile", percentile=75.0), *[0.18] * NUM_EPOCHS) is None


@pytest.mark.parametrize("kind", ["median", "percentile"])
def test_the_interval_by_hand(kind):
    """With a warm-up of one epoch the questions are asked in epochs 2, 5, 8 and 11."""
    study = filled(kind, warmup_epochs=1, interval_epochs=3)
    assert run(study, *[0.0] * NUM_EPOCHS) == 2
    study = filled(kind, startup_trials=5, warmup_epochs=2, interval_epochs=3)
    run(study, *[0.5] * NUM_EPOCHS)
    assert run(study, *[0.0] * NUM_EPOCHS) == 3


def test_patience_by_hand():
    """Far below the median all the time, but spared until three epochs fall short of the best."""
    rising, falling = [0.01, 0.02, 0.03, 0.04, 0.05], [0.04] * 7
    assert run(filled("patient", patience_epochs=2), *rising, *falling) == 8
    assert run(filled("patient", patience_epochs=2, warmup_epochs=9), *rising, *falling) == 10
    assert run(filled("patient", patience_epochs=2, min_delta=0.02), *rising, *falling) is None
    assert run(filled("patient", patience_epochs=2), *rising, *[0.05] * 7) is None


def test_successive_halving_by_hand():
    """Rungs at epochs 2, 4 and 8; of two trials on a rung the better one goes on."""
    study = study_of("successive_halving", min_epochs=2, reduction_factor=2)
    assert run(study, *[0.5] * NUM_EPOCHS) is None
    assert run(study, *[0.4] * NUM_EPOCHS) == 2
    assert run(study, 0.6, 0.6, 0.6, 0.1, *[0.1] * 8) == 4


def test_threshold_by_hand():
    study = study_of("threshold", lower=0.2, warmup_epochs=2)
    assert run(study, 0.1, 0.1, 0.1, 0.1) == 3
    assert run(study, 0.1, 0.1, 0.2, 0.9, 0.19) == 5
    assert run(study_of("threshold", upper=0.5, warmup_epochs=0), 0.4, 0.5, 0.6) == 3


@pytest.mark.parametrize(
    "given",
    [
        {"kind": "threshold"},
        {"kind": "threshold", "lower": 0.5, "upper": 0.5},
        {"kind": "percentile", "percentile": 100.0},
        {"kind": "hyperband", "reduction_factor": 1},
        {"kind": "median", "warmup_epochs": -1},
    ],
    ids=str,
)
def test_impossible_settings_are_refused(given):
    with pytest.raises(ValidationError):
        ADAPTER.validate_python(given)
