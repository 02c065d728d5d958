"""Entries, their nearest points, conditions, and what Optuna is asked for."""

import math

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from pipeline.config.search_space import SearchEntry, SearchSpace, find_cycle, in_range, same

ADAPTER = TypeAdapter(SearchEntry)
PROPERTY = settings(deadline=None, max_examples=200)


def entry(**given):
    return ADAPTER.validate_python(given)


def floating(low, high, **given):
    return entry(type="float", low=low, high=high, **given)


def categorical(*choices, **given):
    return entry(type="categorical", choices=list(choices), **given)


NUMBERS = st.floats(-1e6, 1e6).map(lambda number: round(number, 6))


@st.composite
def number_entries(draw):
    kind = draw(st.sampled_from(["float", "log", "float step", "int", "int step"]))
    if kind == "int":
        low = draw(st.integers(-(10**6), 10**6))
        return entry(type="int", low=low, high=low + draw(st.integers(1, 10**6)))
    if kind == "int step":
        low, step = draw(st.integers(-100, 100)), draw(st.integers(1, 20))
        return entry(type="int", low=low, high=low + step * draw(st.integers(1, 50)), step=step)
    if kind == "float step":
        step = draw(st.sampled_from([0.1, 0.05, 0.01, 0.3, 1e-4, 7.0]))
        low = round(draw(st.integers(0, 20)) * step, 10)
        return floating(low, round(low + step * draw(st.integers(1, 50)), 10), step=step)
    low, high = sorted([draw(NUMBERS), draw(NUMBERS)])
    assume(low < high)
    if kind == "log":
        return floating(abs(low) + 1e-9, abs(low) + 1e-9 + abs(high) + 1, log=True)
    return floating(low, high)


@PROPERTY
@given(number_entries(), NUMBERS)
def test_the_nearest_value_is_in_range_and_its_own_nearest(entry, value):
    nearest = entry.nearest(value)
    assert in_range(entry, nearest)
    assert entry.nearest(nearest) == pytest.approx(nearest, rel=1e-12)
    assert entry.distribution()._contains(entry.distribution().to_internal_repr(nearest))


@PROPERTY
@given(number_entries(), NUMBERS, st.floats(0, 1))
def test_no_value_in_range_is_nearer(entry, value, share):
    other = entry.nearest(entry.low + share * (entry.high - entry.low))
    tolerance = 1e-6 * (1 + abs(value))
    assert abs(entry.nearest(value) - value) <= abs(other - value) + tolerance


@PROPERTY
@given(number_entries())
def test_the_edges_are_in_range(entry):
    assert all(in_range(entry, edge) for edge in entry.edges())


def test_nearest_by_hand():
    assert floating(0.1, 0.5).nearest(0.0) == 0.1
    assert floating(0.1, 0.5).nearest(None) == 0.1
    assert floating(0.0, 1.0, step=0.25).nearest(0.4) == 0.5
    assert floating(0.1, 0.7, step=0.1).nearest(1.0) == 0.7  # 0.1 + 6 * 0.1 is a little more
    assert entry(type="int", low=4, high=64, step=20).nearest(30) == 24
    assert categorical("a", "b").nearest("b") == "b"
    assert categorical("a", "b").nearest("c") == "a"


def test_true_is_not_one():
    assert not same(True, 1)
    assert same(1, 1.0)
    assert not in_range(floating(0.0, 2.0), True)
    assert categorical(0, False, True).nearest(False) is False
    assert in_range(categorical(True, 0), True)
    assert not in_range(categorical(True, 0), 1)


def test_numbers_and_their_distributions():
    distribution = floating(1e-5, 0.1, log=True).distribution()
    assert (distribution.low, distribution.high, distribution.log) == (1e-5, 0.1, True)
    assert entry(type="int", low=8, high=64, step=8).distribution().step == 8
    assert categorical("a", 2, True).distribution().choices == ("a", 2, True)


@pytest.mark.parametrize(
    "given",
    [
        {"type": "float", "low": 1.0, "high": 1.0},
        {"type": "float", "low": 0.0, "high": 1.0, "log": True},
        {"type": "float", "low": 0.1, "high": 1.0, "log": True, "step": 0.1},
        {"type": "float", "low": 0.0, "high": 1.0, "step": 0.3},
        {"type": "float", "low": 0.0, "high": 1.0, "step": 2.0},
        {"type": "float", "low": 0.0, "high": math.inf},
        {"type": "float", "low": False, "high": 1.0},
        {"type": "int", "low": 0, "high": 2.0},
        {"type": "categorical", "choices": ["a", "a"]},
        {"type": "categorical", "choices": [1, 1.0]},
        {"type": "categorical", "choices": ["a"]},
        {"type": "categorical", "choices": ["a", None]},
        {"type": "categorical", "choices": list(range(101))},
    ],
    ids=str,
)
def test_impossible_entries_are_refused(given):
    with pytest.raises(ValidationError):
        ADAPTER.validate_python(given)


@pytest.mark.parametrize(("low", "high"), [(0.0, 0.3), (0.2, 0.3), (0.1, 0.7)])
def test_a_step_that_divides_only_in_decimals_is_taken(low, high):
    assert floating(low, high, step=0.1).distribution().high == high


CONDITIONAL = {
    "gamma": floating(0.1, 0.5, when={"kind": ["step", "plateau"]}),
    "kind": categorical("cosine", "step", "plateau"),
    "patience": entry(type="int", low=1, high=5, when={"kind": "plateau", "gamma": 0.5}),
}


class Fixed:
    """Suggests given values, and notes what it was asked for."""

    def __init__(self, **values):
        self.values = values

    def suggest(self, name, *_, **__):
        return self.values[name]

    suggest_float = suggest_int = suggest_categorical = suggest


def test_a_condition_is_looked_at_after_what_it_depends_on():
    assert list(SearchSpace(CONDITIONAL).entries) == ["kind", "gamma", "patience"]


def test_only_entries_whose_condition_holds_are_sampled():
    space = SearchSpace(CONDITIONAL)
    assert space.sample(Fixed(kind="cosine")) == {"kind": "cosine"}
    assert space.sample(Fixed(kind="step", gamma=0.5)) == {"kind": "step", "gamma": 0.5}
    assert space.sample(Fixed(kind="plateau", gamma=0.2)) == {"kind": "plateau", "gamma": 0.2}
    everything = {"kind": "plateau", "gamma": 0.5, "patience": 3}
    assert space.sample(Fixed(**everything)) == everything


def test_the_nearest_point_obeys_the_conditions():
    space = SearchSpace(CONDITIONAL)
    assert space.nearest({"kind": "cosine", "gamma": 0.3}) == {"kind": "cosine"}
    assert space.nearest({"kind": "step", "gamma": 0.9}) == {"kind": "step", "gamma": 0.5}
    assert space.nearest({}) == {"kind": "cosine"}


def when(*parents):
    return floating(0.0, 1.0, when=dict.fromkeys(parents, 0.5))


def test_a_cycle_is_found_with_its_way():
    assert find_cycle({"a": when("b"), "b": when("c"), "c": when("b")}) == ("b", "c", "b")
    assert find_cycle({"a": when("a")}) == ("a", "a")
    assert find_cycle({"a": when("b", "c"), "b": when("c"), "c": when()}) == ()
    assert find_cycle({"a": when("unsearched")}) == ()


@pytest.mark.timeout(20)
def test_many_ways_to_one_entry_are_no_trouble():
    """2^40 ways lead from the last layer to the first; each entry is visited once."""
    layers = {
        f"{side}{layer}": when(*([f"a{layer - 1}", f"b{layer - 1}"] if layer else []))
        for layer in range(40)
        for side in "ab"
    }
    assert find_cycle(layers) == ()
    assert len(SearchSpace(layers).entries) == 80
