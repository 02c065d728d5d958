"""pydantic's complaints -> problems that name a place, a rule and a cure."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from typing import Any

from pydantic import ValidationError

from pipeline.config.yaml_file import Place, parse_scalar
from pipeline.errors import UserError, UserErrors
from pipeline.settings import Settings, has_kind, kind_names, scalar_fields, settings_classes

MAX_SHOWN, MAX_MEANT = 20, 3
ABBREVIATIONS = {"lr": "learning_rate", "wd": "weight_decay", "bs": "batch_size"}
"""What people are used to write elsewhere."""
UNKNOWN_KIND = ("union_tag_invalid", "union_tag_not_found")

_RULES = {
    "bool_type": "should be true or false; write true or false: yes, no, on and off are text",
    "int_type": "should be a whole number",
    "int_from_float": "should be a whole number",
    "float_type": "should be a number",
    "string_type": "should be text",
    "list_type": "should be a list",
    "tuple_type": "should be a list",
    "dict_type": "should be a mapping",
    "model_type": "should be a mapping",
    "model_attributes_type": "should be a mapping",
    "too_short": "should have at least {min_length} items",
    "too_long": "should have at most {max_length} items",
}


Complaint = tuple[Place, Mapping[str, Any]]
"""A place, and what pydantic says of it (an item of `ValidationError.errors()`)."""


@dataclass(frozen=True)
class Problem:
    """What is wrong at a place of the settings, the rule, and the cure."""

    place: Place
    what: str
    rule: str = ""
    cure: str = ""

    def at(self, where: Callable[[Place], str]) -> UserError:
        """The error to show, given how a place is called (`file:line`)."""
        return UserError(self.what, where=where(self.place), rule=self.rule, cure=self.cure)


def raise_all(errors: Iterable[UserError]) -> None:
    """Raise one error for all of `errors`, or the first twenty of them; nothing for none."""
    found = list(islice(errors, MAX_SHOWN))
    if found:
        raise found[0] if len(found) == 1 else UserErrors(found)


def quoted(value: object) -> str:
    """A value as it stands in a YAML file: strings in quotes, long ones cut short."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, float) and not math.isfinite(value):
        return ".nan" if math.isnan(value) else ".inf" if value > 0 else "-.inf"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(quoted, value[:6]))}{', ...' * (len(value) > 6)}]"
    text = "a mapping" if isinstance(value, Mapping) else repr(value)
    return text if len(text) <= 80 else f"{text[:76]} ..."


def nearest_name(word: object, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The known name that was probably meant, if any is close: by `difflib`'s ratio, or as what
    comes after a slash (`accuracy` for `validation/accuracy`)."""
    if not isinstance(word, str):
        return None
    by_lower = {name.lower(): name for name in known}
    ends = [name for name in by_lower if name.endswith(f"/{word.lower()}")]
    close = ends or difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=cutoff)
    return by_lower[close[0]] if close else None


def named(word: object, paths: Iterable[str]) -> list[str]:
    """The dotted paths that end in a key of that name."""
    key = ABBREVIATIONS.get(str(word), str(word))
    return [path for path in paths if path.rpartition(".")[2] == key]


def did_you_mean(names: Sequence[str]) -> str:
    """The question that asks for one of these, which are at least one."""
    *others, last = (f"`{name}`" for name in names[:MAX_MEANT])
    return f"did you mean {', '.join(others)}{' or ' * bool(others)}{last}?"


def explain(
    error: ValidationError, data: Mapping[str, Any], top: type[Settings]
) -> Iterator[Problem]:
    """Each complaint about `data`, with the place it is about."""
    complaints = _without_echoes([(_place(item, data), item) for item in error.errors()])
    for place, group in groupby(complaints, key=lambda complaint: complaint[0]):
        items = [item for _, item in group]
        kind, classes = items[0]["type"], _classes_at(items[0]["loc"], top)
        if kind == "missing":
            cure = f"add `{place[-1]}:` and its value"
            yield Problem(place, f"{_name(place)} is missing", "it has no default", cure)
        elif kind == "extra_forbidden":
            yield _unknown_key(place, data, _classes_at(items[0]["loc"][:-1], top), top)
        elif kind in UNKNOWN_KIND:
            yield _unknown_kind(place, items[0], classes)
        else:
            yield _wrong_value(place, items, top)


def _without_echoes(complaints: list[Complaint]) -> list[Complaint]:
    """The complaints without those that come of another one.

    A misspelt key is unknown, and the right one missing; a wrong item of a list makes the list
    wrong for the other members of its union too.
    """
    unknown = [place for place, item in complaints if item["type"] == "extra_forbidden"]
    outer = {place[:n] for place, _ in complaints for n in range(len(place))}

    def is_echo(place: Place, item: Mapping[str, Any]) -> bool:
        if item["type"] == "missing":
            siblings = (other[-1] for other in unknown if other[:-1] == place[:-1])
            return any(nearest_name(word, [str(place[-1])]) for word in siblings)
        return place in outer

    return [complaint for complaint in complaints if not is_echo(*complaint)]


def _wrong_value(place: Place, items: list[Mapping[str, Any]], top: type[Settings]) -> Problem:
    """A value of another type than asked for, or out of its bounds.

    Where a union of plain types is asked for, each of its members has complained.
    """
    specific = [item for item in items if not item["type"].endswith("_type")] or items
    item, name = specific[0], _name(place)
    value = item["input"]
    said = str(item["msg"]).removeprefix("Value error, ").removeprefix("Input ")
    rule = _RULES[item["type"]].format(**item.get("ctx", {})) if item["type"] in _RULES else said
    if len(specific) > 1:
        rule = "should be a plain value: a number, true, false or text"
    if all(item["type"] == "literal_error" for item in items):
        rule = f"should be {_one_of(item['ctx']['expected'] for item in items)}"
    if item["type"] == "string_pattern_mismatch":
        rule = _description(item["loc"], top) or rule
    rule, _, cure = rule.partition("; ")
    if item["type"] == "value_error" and isinstance(value, Mapping):
        what, (rule, _, cure) = rule, cure.partition("; ")
        return Problem(place, f"{name}: {what}", rule, cure or f"mend {name}")
    return Problem(place, f"{name} is {quoted(value)}", rule, cure or _cure(name, value, rule))


def _one_of(expected: Iterable[str]) -> str:
    """`'a', 'b' or 'c'` of the words that the members of a union take."""
    words = dict.fromkeys(word for said in expected for word in re.findall(r"'[^']*'", said))
    *others, last = words
    return f"{', '.join(others)} or {last}" if others else last


def _cure(name: str, value: object, rule: str) -> str:
    if value is None:
        return f"give {name} a value, or delete it"
    if isinstance(value, int | float) and rule == _RULES["string_type"]:
        return "put it in quotes"
    if isinstance(value, str) and "number" in rule and not isinstance(parse_scalar(value), str):
        return f"write {value} without quotes"
    if isinstance(value, str) and rule == _RULES["model_type"]:
        return f"write it as {{kind: {value}}}, if that is its kind"
    if isinstance(value, list) and "number" in rule:
        return f"what is to be searched has an entry under `search:`, by its dotted path: {name}"
    meant = nearest_name(value, re.findall(r"'([^']*)'", rule))
    return did_you_mean([meant]) if meant else f"change {name}"


def _unknown_key(
    place: Place, data: Mapping[str, Any], classes: list[type[Settings]], top: type[Settings]
) -> Problem:
    known = sorted({key for owner in classes for key in owner.model_fields})
    *sections, key = place
    for section in sections:
        data = data[section]  # type: ignore[index]
    kind = data.get("kind", data.get("type"))
    own = ".".join(map(str, place))
    meant = nearest_name(key, known, cutoff=0.7)
    paths = [] if place[0] == "search" else _paths(top)
    begun = [path for path in paths if path.rpartition(".")[2].startswith(f"{key}_")]
    names = named(key, paths) or ([meant] if meant else begun)
    outermost = str(key).partition(".")[0]
    cure = did_you_mean(names) if names else f"delete {_name(place)} or rename it"
    if own in paths:
        cure = f"delete {_name(place)}, or choose a kind that has it"
    elif names == [str(key)]:
        cure = f"write `{key}:` at the top level, beside `{sections[0]}:`"
    if "." in str(key) and outermost in known:
        cure = f"nest it: `{outermost}:`, and below it the rest, indented"
    return Problem(
        place,
        f"{_name(place)} is not a key that regsearch knows here",
        f"known{f' for {quoted(kind)}' if kind else ''}: {', '.join(known)}",
        cure,
    )


def _paths(top: type[Settings]) -> list[str]:
    """The dotted paths of all settings and sections, but for what is below `search`."""
    scalars = [path for path, _ in scalar_fields(top) if not path.startswith("search.")]
    parts = (path.split(".") for path in scalars)
    return list(dict.fromkeys(".".join(p[:n]) for p in parts for n in range(1, len(p) + 1)))


def _unknown_kind(place: Place, item: Mapping[str, Any], classes: list[type[Settings]]) -> Problem:
    """A section whose `kind` (an entry whose `type`) is missing or not one of the table's."""
    key = "type" if place[0] == "search" else "kind"
    kinds, given = [name for owner in classes for name in kind_names(owner)], item["input"]
    rule = f"should be one of {', '.join(kinds)}"
    if not isinstance(given, Mapping):
        what = f"{_name(place)} is {quoted(given)}"
        cure = f"write {{{key}: {given if given in kinds else '...'}}}"
        return Problem(place, what, f"should be a mapping with `{key}`", cure)
    name = _name((*place, key))
    if key not in given:
        nested = [word for word, value in given.items() if isinstance(value, Mapping)]
        path = f"{'.'.join(map(str, place[1:]))}.{nested[0] if nested else ''}"
        dotted = f"write `{path}: ...`: what is searched is named by its dotted path"
        cure = dotted if key == "type" and nested else f"add `{key}:`"
        return Problem(place, f"{name} is missing", rule, cure)
    meant = nearest_name(given[key], kinds)
    families = [name.removesuffix("<name>") for name in kinds if name.endswith("<name>")]
    if families and re.search(r"[a-z]\d", str(given[key])):  # such as resnet18
        meant = f"{families[0]}{given[key]}"
    cure = did_you_mean([meant]) if meant else "choose one of them"
    return Problem((*place, key), f"{name} is {quoted(given[key])}", rule, cure)


def _name(place: Place) -> str:
    """A place as its dotted path, marked as code."""
    return f"`{'.'.join(map(str, place))}`"


def _place(item: Mapping[str, Any], data: Any) -> Place:
    """A complaint's location without what pydantic puts in for the members of a union."""
    place: list[str | int] = []
    for part in item["loc"]:
        in_list = isinstance(data, list) and isinstance(part, int) and part < len(data)
        if in_list or (isinstance(data, Mapping) and part in data):
            data = data[part]
            place.append(part)
    missing = item["loc"][-1:] if item["type"] == "missing" else ()
    return (*place, *missing)


def _classes_at(loc: tuple[str | int, ...], top: type[Settings]) -> list[type[Settings]]:
    """The settings classes that may stand at a location of pydantic's."""
    classes = [top]
    for part in loc:
        fields = [c.model_fields[str(part)] for c in classes if part in c.model_fields]
        if fields:
            classes = [c for field in fields for c in settings_classes(field.annotation)]
        elif len(classes) > 1:
            classes = [c for c in classes if has_kind(c, part)] or classes
    return classes


def _description(loc: tuple[str | int, ...], top: type[Settings]) -> str | None:
    """What the string under a field says."""
    fields = (owner.model_fields.get(str(loc[-1])) for owner in _classes_at(loc[:-1], top))
    return next((" ".join(f.description.split()) for f in fields if f and f.description), None)
