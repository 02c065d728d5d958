"""Is a search space possible? Each entry's bounds are tried on the settings before any training."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.config.problems import (
    MAX_SHOWN,
    Problem,
    did_you_mean,
    named,
    nearest_name,
    quoted,
)
from pipeline.config.run_config import RunConfig
from pipeline.config.search_space import (
    CategoricalEntry,
    Choice,
    FloatEntry,
    SearchEntry,
    find_cycle,
    in_range,
    same,
)
from pipeline.errors import UserError, UserErrors
from pipeline.settings import has_kind, kind_names, scalar_fields
from pipeline.words import describe

SEARCHABLE = ("model", "training", "lr_schedule", "regularization", "augmentation")
RANDOM_POINTS = 100
MAX_TRIES = 2000  # of bounds in contexts, over all entries: 0.2 s


def searchable_paths() -> list[str]:
    """Every dotted path that may stand under `search:`."""
    paths = (path for path, _ in scalar_fields(RunConfig) if path.split(".")[0] in SEARCHABLE)
    return list(dict.fromkeys(paths))


def check_search(config: RunConfig) -> Iterator[Problem]:
    """What is wrong with `search:`, the first kind of mistake only."""
    for check in (_unknown_paths, _conditions, _recipe_choices, _bounds, _dead_augmentation):
        found = list(itertools.islice(check(config), MAX_SHOWN))
        yield from found
        if found:
            return
    yield from _combinations(config)


def _unknown_paths(config: RunConfig) -> Iterator[Problem]:
    known = searchable_paths()
    for path in config.search:
        if path not in known:
            near = nearest_name(path, known)
            names = [f"{path}.kind"] if f"{path}.kind" in known else []
            names = names or named(path.rpartition(".")[2], known) or ([near] if near else [])
            cure = did_you_mean(names) if names else "`regsearch schema` lists them all"
            yield Problem(
                ("search", path),
                f"`{path}` is not a setting that can be searched",
                f"the dotted path of a scalar setting under {', '.join(SEARCHABLE)}",
                cure,
            )


def _conditions(config: RunConfig) -> Iterator[Problem]:
    cycle = find_cycle(config.search)
    if cycle:
        yield Problem(
            ("search", cycle[0], "when"),
            f"the condition of `{cycle[0]}` depends on itself: {' -> '.join(cycle)}",
            "conditions lead from one entry to another and never back",
            "delete one of these conditions",
        )
    for path, entry in config.search.items():
        for parent in entry.when:
            yield from _condition(config, path, entry, parent)


def _condition(config: RunConfig, path: str, entry: SearchEntry, parent: str) -> Iterator[Problem]:
    place = ("search", path, "when", parent)
    if parent not in config.search:
        yield Problem(
            place,
            f"`{path}` depends on `{parent}`, which is not searched",
            "a condition names another key of `search:`",
            f"search `{parent}` too, or delete the condition",
        )
        return
    source = config.search[parent]
    if isinstance(source, FloatEntry) and source.step is None:
        yield Problem(
            place,
            f"`{path}` waits for one value of `{parent}`, which is drawn from a continuous range",
            "a condition names values of a categorical, an int or a stepped entry",
            f"search `{parent}` as categorical, or in steps",
        )
        return
    for value in entry.values_of(parent):
        if not in_range(source, value):
            yield Problem(
                place,
                f"`{path}` waits for `{parent}` to be {quoted(value)}, which it can't be",
                f"one of the values that `{parent}` is searched over",
                "change the condition, or add the value",
            )


def _recipe_choices(config: RunConfig) -> Iterator[Problem]:
    """The recipe is a baseline of the study, so its choices must be points of the space."""
    values = config.values()
    for path, entry in config.search.items():
        value = values.get(path)
        given = isinstance(entry, CategoricalEntry) and path in values
        if given and not any(same(value, choice) for choice in entry.edges()):
            own = quoted(value)
            yield Problem(
                ("search", path),
                f"the file's own `{path}` is {own}, which is not among the choices",
                "the file's own settings are tried as a baseline, so they belong to the space",
                f"add {own} to `choices`, or set `{path}` to one of them outside of `search:`",
            )


def _bounds(config: RunConfig) -> Iterator[Problem]:
    for path, entry in config.search.items():
        tries = itertools.product(_contexts(config, path), entry.edges())
        for context, edge in itertools.islice(tries, MAX_TRIES // len(config.search)):
            try:
                config.with_overrides({**context, path: edge})
            except UserError as error:
                yield _not_of_the_kind(config, path, context) or Problem(
                    ("search", path),
                    f"`{path}` can't be {quoted(edge)}{_with(context)}: {_reason(error, path)}",
                    "every value of an entry is one that the setting accepts",
                    error.cure or "change the bounds or the choices",
                )
                break


def _with(context: Mapping[str, Choice]) -> str:
    listed = " and ".join(f"`{path}` {quoted(value)}" for path, value in context.items())
    return f" with {listed}" if listed else ""


def _not_of_the_kind(config: RunConfig, path: str, context: Mapping[str, Choice]) -> Problem | None:
    """Where the kind of a setting's section has no such setting: which kinds have it."""
    section, _, name = path.rpartition(".")
    key = f"{section}.kind"
    kind = context.get(key, config.values().get(key))
    owners = [scalar.owner for known, scalar in scalar_fields(RunConfig) if known == path]
    if kind is None or any(has_kind(owner, kind) for owner in owners):
        return None
    kinds = list(dict.fromkeys(known for owner in owners for known in kind_names(owner)))
    when = f"`when: {{{key}: [{', '.join(kinds)}]}}`"
    cure = f"set `{key}: {kinds[0]}`, or search `{key}` too, and give this entry {when}"
    if key in config.search:
        searched = [
            str(k) for k in config.search[key].edges() if any(has_kind(o, k) for o in owners)
        ]
        when = f"`when: {{{key}: [{', '.join(searched)}]}}`"
        cure = f"give it {when}, the kinds that have it"
        cure = cure if searched else f"delete it, or add `{kinds[0]}` to the choices of `{key}`"
    return Problem(
        ("search", path),
        f"`{path}` is searched with `{key}: {kind}`, which has no `{name}`",
        f"`{name}` belongs to {', '.join(kinds)}",
        cure,
    )


def _dead_augmentation(config: RunConfig) -> Iterator[Problem]:
    """Parts of augmentation that are asked for, but scaled by a strength of 0."""
    if "augmentation.strength" in config.search:
        return
    searched = [p for p in config.search if p.startswith("augmentation.")]
    silent = [f"augmentation.{name}" for name in config.augmentation.silent_parts()]
    if not config.augmentation.strength and (silent or searched):
        path = (searched or silent)[0]
        yield Problem(
            ("search", path) if searched else tuple(path.split(".")),
            f"`{path}` does nothing, because `augmentation.strength` is 0",
            "`strength` scales every part of the augmentation",
            "set `augmentation.strength: 1.0`, or search it",
        )


def _combinations(config: RunConfig) -> Iterator[Problem]:
    """The first of many random points that the settings don't accept."""
    chance = _RandomTrial(random.Random(0))
    for _ in range(RANDOM_POINTS if config.search else 0):
        sample = config.space.sample(chance)
        try:
            config.with_overrides(sample)
        except UserError as error:
            yield Problem(
                ("search",),
                f"these values don't go together: {describe(sample)}: {_reason(error)}",
                "every point of the space is one that the settings accept",
                "narrow the bounds, or add a condition (`when`)",
            )
            return


def _contexts(config: RunConfig, path: str) -> list[dict[str, Choice]]:
    """The values of other entries under which an entry is to be tried.

    They are those of its conditions (and of theirs in turn), and every kind of the section that
    it belongs to.
    """
    options: dict[str, list[Choice]] = {}

    def collect(child: str) -> None:
        for parent in config.search[child].when:
            if parent not in options:
                options[parent] = config.search[child].values_of(parent)
                collect(parent)

    collect(path)
    for kind, entry in config.search.items():
        section, _, key = kind.rpartition(".")
        if key == "kind" and path.startswith(f"{section}.") and path != kind:
            options.setdefault(kind, entry.edges())
    products = itertools.islice(itertools.product(*options.values()), MAX_TRIES)
    return [dict(zip(options, values, strict=True)) for values in products]


def _reason(error: UserError, path: str = "") -> str:
    """The error in one line, without what is wrong where that is the value just tried."""
    if isinstance(error, UserErrors):
        return _reason(error.errors[0], path)
    told = error.what.startswith(f"`{path}` is ") and error.rule.startswith("should")
    return f"it {error.rule}" if told else f"{error.what} ({error.rule})"


class _RandomTrial:
    """Draws uniformly, in place of an Optuna trial."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None, log: bool
    ) -> float:
        del name
        if step is not None:
            return min(low + step * self.chance.randint(0, round((high - low) / step)), high)
        if log:
            drawn = math.exp(self.chance.uniform(math.log(low), math.log(high)))
            return min(max(drawn, low), high)
        return self.chance.uniform(low, high)

    def suggest_int(self, name: str, low: int, high: int, *, step: int, log: bool) -> int:
        return round(self.suggest_float(name, low, high, step=None if log else step, log=log))

    def suggest_categorical(self, name: str, choices: tuple[Choice, ...]) -> Any:
        del name
        return self.chance.choice(choices)
