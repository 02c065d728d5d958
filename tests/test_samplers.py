"""One contract for every sampler, used as the study uses it: built anew for each trial."""

import logging
from typing import get_args

import optuna
import pytest
from pydantic import TypeAdapter

from pipeline.config.search_space import SearchEntry, SearchSpace, in_range
from pipeline.seeding import stream_seed
from pipeline.study.samplers import AnySampler, QmcSettings, build_sampler

ADAPTER = TypeAdapter(AnySampler)
MEMBERS = get_args(get_args(AnySampler)[0])
KINDS = {get_args(member.model_fields["kind"].annotation)[0]: member for member in MEMBERS}
NUM_TRIALS = 10
STARTUP = {"startup_trials": 4}  # so that the models behind the samplers are reached

SPACE = SearchSpace(
    TypeAdapter(dict[str, SearchEntry]).validate_python(
        {
            "plain": {"type": "float", "low": -1.0, "high": 2.0},
            "log": {"type": "float", "low": 1e-5, "high": 1e-1, "log": True},
            "stepped": {"type": "float", "low": 0.1, "high": 0.7, "step": 0.1},
            "whole": {"type": "int", "low": 1, "high": 5},
            "log whole": {"type": "int", "low": 1, "high": 512, "log": True},
            "stepped whole": {"type": "int", "low": 8, "high": 64, "step": 8},
            "choice": {"type": "categorical", "choices": ["a", "b", True, 3]},
            "conditional": {"type": "float", "low": 0.0, "high": 1.0, "when": {"choice": ["b", 3]}},
        }
    )
)


def settings_of(kind):
    startup = STARTUP if "startup_trials" in KINDS[kind].model_fields else {}
    return ADAPTER.validate_python({"kind": kind, **startup})


def value_of(sample):
    return sample["plain"] + sample["whole"] + (sample["choice"] == "b")


def samples(settings, seed=0, num_trials=NUM_TRIALS):
    """What a study of this sampler tries after the point nearest to a recipe."""
    study = optuna.create_study(study_name="s", direction="maximize")
    study.enqueue_trial(SPACE.nearest({"plain": 9.0, "choice": "a"}))
    drawn = []
    for number in range(num_trials):
        trial_number = None if isinstance(settings, QmcSettings) else number
        study.sampler = build_sampler(settings, stream_seed(seed, "sampler", trial_number) % 2**32)
        trial = study.ask()
        drawn.append(SPACE.sample(trial))
        study.tell(trial, value_of(drawn[-1]))
    return drawn


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    return request.param


class Warnings(logging.Handler):
    """What Optuna's log warns of."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.messages = []

    def emit(self, record):
        self.messages.append(record.getMessage())


@pytest.fixture(scope="module")
def warnings():
    handler = Warnings()
    logging.getLogger("optuna").addHandler(handler)
    yield handler.messages
    logging.getLogger("optuna").removeHandler(handler)


@pytest.fixture(scope="module")
def drawn(kind, warnings):
    warnings.clear()
    return samples(settings_of(kind))


def test_every_value_is_one_of_its_entry(drawn):
    for sample in drawn:
        assert all(in_range(SPACE.entries[path], value) for path, value in sample.items())


def test_a_conditional_entry_is_drawn_when_its_condition_holds(drawn):
    assert all(("conditional" in sample) == (sample["choice"] in ("b", 3)) for sample in drawn)
    assert any("conditional" in sample for sample in drawn)


def test_the_enqueued_point_comes_first(drawn):
    assert drawn[0] == SPACE.nearest({"plain": 9.0, "choice": "a"})
    assert drawn[0]["plain"] == 2.0


@pytest.mark.parametrize("path", ["plain", "log", "choice", "conditional"])
def test_trials_differ_although_the_sampler_is_built_anew(drawn, path):
    values = [sample[path] for sample in drawn[1:] if path in sample]
    assert len(values) > 1
    assert len(set(values)) > 1


def test_the_same_seed_draws_the_same_and_another_seed_another(kind, drawn):
    few = 6
    assert samples(settings_of(kind), num_trials=few) == drawn[:few]
    assert samples(settings_of(kind), seed=1, num_trials=few)[1:] != drawn[1:few]


def test_nothing_is_warned_of(drawn, warnings):
    assert drawn
    assert warnings == []


def test_a_model_finds_better_points_than_chance_does():
    """TPE's table entry builds TPE, and not something that merely draws."""
    tpe = samples(ADAPTER.validate_python({"kind": "tpe", **STARTUP}), num_trials=40)
    random = samples(ADAPTER.validate_python({"kind": "random"}), num_trials=40)
    assert sum(map(value_of, tpe[20:])) > sum(map(value_of, random[20:])) + 10


def test_settings_reach_the_sampler():
    tpe = build_sampler(ADAPTER.validate_python({"kind": "tpe", "startup_trials": 3}), 0)
    assert (tpe._n_startup_trials, tpe._multivariate, tpe._group) == (3, True, True)
    alone = build_sampler(ADAPTER.validate_python({"kind": "tpe", "multivariate": False}), 0)
    assert (alone._multivariate, alone._group) == (False, False)
    halton = build_sampler(ADAPTER.validate_python({"kind": "qmc", "sequence": "halton"}), 0)
    assert halton._qmc_type == "halton"
