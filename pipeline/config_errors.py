"""pydantic's complaints -> problems that name a place, a rule and a cure."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from pipeline.errors import UserError, UserErrors
from pipeline.settings import Settings, settings_classes
from pipeline.yaml_file import Place


UNKNOWN_KIND = ("union_tag_invalid", "union_tag_not_found", "unknown_model", "unknown_optimizer")


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
    """Raise one error for all of `errors`; nothing for none."""
    found = list(errors)
    if found:
        raise found[0] if len(found) == 1 else UserErrors(found)


def explain(
    error: ValidationError, data: Mapping[str, Any], top: type[Settings]
) -> Iterator[Problem]:
    """Each complaint about `data`, with the place it is about."""
    for item in error.errors():
        place = _place(item["loc"], data)
        name = f"`{'.'.join(map(str, place))}`"
        if item["type"] == "missing":
            yield Problem(place, f"{name} is missing", "it has no default", f"give {name} a value")
        elif item["type"] == "extra_forbidden":
            yield _unknown_key(place, name, _known_keys(item["loc"], top))
        elif item["type"] in UNKNOWN_KIND:
            yield _unknown_kind(place, name, item)
        else:
            yield Problem(place, *_value_problem(name, item))


def _value_problem(name: str, item: Mapping[str, Any]) -> tuple[str, str, str]:
    rule = item["msg"].removeprefix("Value error, ")
    rule = rule.replace("Input should", "should").replace("valid boolean", "true or false")
    rule = rule.replace("valid dictionary or object to extract fields from", "mapping")
    if isinstance(item["input"], dict | list):
        what = name if item["type"] == "value_error" else f"{name} is not a plain value"
        return (f"{what} can't be used", rule, f"mend {name}")
    return (f"{name} is {_spell(item['input'])}", rule, f"change {name}")


def _spell(value: object) -> str:
    """A value as it stands in a YAML file, strings in quotes."""
    words = {None: "null", True: "true", False: "false"}
    plain = value is None or isinstance(value, bool)
    return words[value] if plain else repr(value)  # type: ignore[index]


def _unknown_key(place: Place, name: str, known: list[str]) -> Problem:
    close = difflib.get_close_matches(str(place[-1]), known, n=1)
    cure = f"did you mean `{close[0]}`?" if close else f"delete {name} or rename it"
    return Problem(
        place,
        f"{name} is not a key that regsearch knows",
        "known here: " + ", ".join(sorted(known)),
        cure,
    )


def _unknown_kind(place: Place, name: str, item: Mapping[str, Any]) -> Problem:
    """A section whose `kind` (an entry whose `type`) is missing or not one of the table's."""
    context, given = item.get("ctx", {}), item["input"]
    key = str(context.get("discriminator", "")).strip("'")
    key = key if key.isidentifier() and not key.startswith("_") else "kind"
    expected = str(context.get("expected_tags", "")).replace("'", "")
    rule = f"should be one of {expected}" if expected else item["msg"]
    if not isinstance(given, dict):
        what = f"{name} is {_spell(given)}"
        return Problem(place, what, f"a mapping with `{key}`", f"write it as {{{key}: ...}}")
    name = f"`{'.'.join(map(str, (*place, key)))}`"
    if key not in given:
        return Problem(place, f"{name} is missing", rule, f"add `{key}:`")
    close = difflib.get_close_matches(str(given[key]), expected.split(", "), n=1)
    cure = f"did you mean `{close[0]}`?" if close else "choose one of them"
    return Problem((*place, key), f"{name} is {_spell(given[key])}", rule, cure)


def _place(loc: tuple[str | int, ...], data: Any) -> Place:
    """A pydantic location without the tags that it puts in for the members of a union."""
    place: list[str | int] = []
    for i, part in enumerate(loc):
        if isinstance(data, Mapping) and part in data:
            data = data[str(part)]
        elif isinstance(data, list) and isinstance(part, int) and part < len(data):
            data = data[part]
        elif i < len(loc) - 1 or not isinstance(data, Mapping) or _is_tag(part, data):
            continue
        place.append(part)
    return tuple(place)


def _is_tag(part: str | int, data: Mapping[str, Any]) -> bool:
    return part in (data.get("kind"), data.get("type"))


def _known_keys(loc: tuple[str | int, ...], top: type[Settings]) -> list[str]:
    """The keys that the settings class around an unknown key has."""
    classes: list[type[Settings]] = [top]
    for part in loc[:-1]:
        fields = [c.model_fields[str(part)] for c in classes if part in c.model_fields]
        if fields:
            classes = [c for field in fields for c in settings_classes(field.annotation)]
        elif len(classes) > 1:
            classes = [c for c in classes if _has_tag(c, part)] or classes
    return sorted({key for c in classes for key in c.model_fields})


def _has_tag(settings: type[Settings], tag: str | int) -> bool:
    fields = (settings.model_fields.get(key) for key in ("kind", "type"))
    return any(tag in getattr(f.annotation, "__args__", ()) for f in fields if f is not None)
