"""What is searched: `search:` entries, their Optuna distributions, and what a trial draws of them.

A key under `search:` is the dotted path of a setting; nothing else decides what can be searched.
A condition (`when`) makes an entry part of a trial only if other searched settings have the values
that it names.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from fractions import Fraction
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol

from pydantic import Field, model_validator

from pipeline.settings import Scalar, Settings

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

Choice = bool | int | float | str

MAX_CHOICES = 100
MAX_STEPS = 1_000_000


class Suggesting(Protocol):
    """The part of `optuna.Trial` that sampling needs."""

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None, log: bool
    ) -> float: ...
    def suggest_int(self, name: str, low: int, high: int, *, step: int, log: bool) -> int: ...
    def suggest_categorical(self, name: str, choices: tuple[Choice, ...]) -> Any: ...


class Entry(Settings):
    """What the three types of entries share."""

    when: dict[
        str, Choice | Annotated[list[Choice], Field(min_length=1, max_length=MAX_CHOICES)]
    ] = Field(default_factory=dict)
    """The searched settings, and the values of theirs, under which this one is searched."""

    def is_active(self, sample: Mapping[str, Scalar]) -> bool:
        """Whether a sample has the values that `when` asks for."""
        return all(
            path in sample and any(same(sample[path], value) for value in self.values_of(path))
            for path in self.when
        )

    def values_of(self, path: str) -> list[Choice]:
        """The values that `when` names for a path."""
        values = self.when[path]
        return values if isinstance(values, list) else [values]


class NumberEntry(Entry):
    """A number from `low` to `high`, both included."""

    low: float
    high: float
    log: bool = False
    """Search on a log scale: for rates and penalties that span powers of ten."""
    step: Annotated[float, Field(gt=0)] | None = None
    """Only low, low + step, low + 2 step ..., up to high."""

    @model_validator(mode="after")
    def _bounds_make_sense(self) -> NumberEntry:
        if self.low >= self.high:
            cure = "swap them" if self.low > self.high else "one value needs no search"
            raise ValueError(
                f"low is {self.low:g} and high is {self.high:g}; low should be less than high; "
                f"{cure}"
            )
        if self.log and self.low <= 0:
            raise ValueError(
                f"log is true and low is {self.low:g}; "
                "low should be greater than 0 on a log scale; "
                "give the least value that is worth a trial, or leave out `log`"
            )
        if self.log and self.step is not None:
            raise ValueError("both step and log are given; they exclude each other")
        if self.step is not None:
            # As decimals, which is how they are written: 0.3 - 0.2 is not 0.1 in binary.
            low, high, step = (Fraction(str(x)) for x in (self.low, self.high, self.step))
            if (high - low) % step or high - low > MAX_STEPS * step:
                raise ValueError(
                    f"step is {self.step:g} and high - low is {float(high - low):g}; "
                    "high - low should be a multiple of step, a million times at most"
                )
        return self

    def nearest(self, value: Scalar | None) -> Scalar:
        """The value in range that is nearest to a setting's (`low` for one that is not set)."""
        number = self.low if value is None else min(max(float(value), self.low), self.high)
        if self.step is None:
            return number
        return min(self.low + round((number - self.low) / self.step) * self.step, self.high)

    def edges(self) -> list[Scalar]:
        return [self.low, self.high]


class FloatEntry(NumberEntry):
    """A real number from `low` to `high`, both included."""

    type: Literal["float"]

    def suggest(self, name: str, trial: Suggesting) -> Scalar:
        return trial.suggest_float(name, self.low, self.high, step=self.step, log=self.log)

    def distribution(self) -> BaseDistribution:
        from optuna.distributions import FloatDistribution

        return FloatDistribution(self.low, self.high, log=self.log, step=self.step)


class IntEntry(NumberEntry):
    """A whole number from `low` to `high`, both included."""

    type: Literal["int"]
    low: int
    high: int
    step: Annotated[int, Field(gt=0)] | None = None
    """Only low, low + step, low + 2 step ..., up to high."""

    def suggest(self, name: str, trial: Suggesting) -> Scalar:
        return trial.suggest_int(name, self.low, self.high, step=self.step or 1, log=self.log)

    def nearest(self, value: Scalar | None) -> Scalar:
        """The whole number in range that is nearest to a setting's."""
        return round(float(super().nearest(value)))

    def distribution(self) -> BaseDistribution:
        from optuna.distributions import IntDistribution

        return IntDistribution(self.low, self.high, log=self.log, step=self.step or 1)


class CategoricalEntry(Entry):
    """One of the values listed."""

    type: Literal["categorical"]
    choices: Annotated[list[Choice], Field(min_length=2, max_length=MAX_CHOICES)]
    """Two to a hundred values, no two alike."""

    @model_validator(mode="after")
    def _choices_differ(self) -> CategoricalEntry:
        seen = set()
        for choice in self.choices:
            if (isinstance(choice, bool), choice) in seen:  # `same`, by hash
                raise ValueError(f"{choice!r} is listed twice; each choice should be listed once")
            seen.add((isinstance(choice, bool), choice))
        return self

    def suggest(self, name: str, trial: Suggesting) -> Scalar:
        value: Scalar = trial.suggest_categorical(name, tuple(self.choices))
        return value

    def distribution(self) -> BaseDistribution:
        from optuna.distributions import CategoricalDistribution

        return CategoricalDistribution(tuple(self.choices))

    def nearest(self, value: Scalar | None) -> Scalar:
        """The setting's own value where it is a choice, else the first choice."""
        return next((c for c in self.choices if same(c, value)), self.choices[0])

    def edges(self) -> list[Scalar]:
        return list(self.choices)


SearchEntry = Annotated[FloatEntry | IntEntry | CategoricalEntry, Field(discriminator="type")]


def same(left: object, right: object) -> bool:
    """Equality that tells `true` from `1`, as YAML does."""
    return isinstance(left, bool) == isinstance(right, bool) and left == right


def in_range(entry: SearchEntry, value: Scalar) -> bool:
    """Whether an entry can take a value."""
    if isinstance(entry, CategoricalEntry):
        return any(same(value, choice) for choice in entry.choices)
    if isinstance(value, (bool, str)):
        return False
    return entry.low <= value <= entry.high and math.isclose(float(entry.nearest(value)), value)


class SearchSpace:
    """All entries, parents of conditions before the entries that depend on them."""

    def __init__(self, entries: Mapping[str, SearchEntry]) -> None:
        self.entries = {path: entries[path] for path in _parents_first(entries)}

    def sample(self, trial: Suggesting) -> dict[str, Scalar]:
        """Let a trial draw a value for every entry whose condition holds."""
        sample: dict[str, Scalar] = {}
        for path, entry in self._active(sample):
            sample[path] = entry.suggest(path, trial)
        return sample

    def nearest(self, values: Mapping[str, Scalar | None]) -> dict[str, Scalar]:
        """The point of the space that is nearest to a given setting of all paths."""
        sample: dict[str, Scalar] = {}
        for path, entry in self._active(sample):
            sample[path] = entry.nearest(values.get(path))
        return sample

    def _active(self, sample: Mapping[str, Scalar]) -> Iterator[tuple[str, SearchEntry]]:
        """The entries whose condition holds for what `sample` contains by the time they come."""
        return ((path, entry) for path, entry in self.entries.items() if entry.is_active(sample))


def find_cycle(entries: Mapping[str, SearchEntry]) -> tuple[str, ...]:
    """A path whose condition depends on itself, with the paths between; empty where none does."""
    cleared: set[str] = set()

    def visit(path: str, trail: tuple[str, ...]) -> tuple[str, ...]:
        if path in trail:
            return (*trail[trail.index(path) :], path)
        parents: Iterable[str] = entries[path].when if path in entries else ()
        unknown = (parent for parent in parents if parent not in cleared)
        cycle = next(filter(None, (visit(parent, (*trail, path)) for parent in unknown)), ())
        cleared.add(path)
        return cycle

    return next(filter(None, (visit(path, ()) for path in entries)), ())


def _parents_first(entries: Mapping[str, SearchEntry]) -> list[str]:
    ordered: list[str] = []

    def visit(path: str) -> None:
        if path not in ordered:
            for parent in entries[path].when:
                visit(parent)
            ordered.append(path)

    for path in entries:
        visit(path)
    return ordered
