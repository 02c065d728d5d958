"""What every settings class shares, and how a tree of them is walked by dotted path.

Each part of the pipeline owns a small frozen settings class beside its implementation; `config`
assembles them. Everything that regularizes carries an `Off` mark: the value that switches it off.
"""

from __future__ import annotations

import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict
from pydantic.fields import FieldInfo

Scalar = bool | int | float | str
"""What a setting can hold when it is searched, and what a sampled value is."""


class Settings(BaseModel):
    """Frozen, strict settings: unknown keys, wrong types, NaN and infinities are errors.

    The string under a field is its description, in the JSON Schema as in the documentation.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )


@dataclass(frozen=True)
class Off:
    """Marks a setting that regularizes, with the value at which it does nothing.

    `Annotated[float, Field(ge=0, lt=1), Off(0.0)]`. The unregularized baseline and the ablations
    are made from these marks alone.
    """

    value: float | str


@dataclass(frozen=True)
class ScalarField:
    """One scalar setting: its owners' class and field, for its type, bounds and description."""

    owner: type[Settings]
    name: str
    field: FieldInfo

    @property
    def off(self) -> Off | None:
        return next((mark for mark in self.field.metadata if isinstance(mark, Off)), None)


def scalar_fields(settings: type[Settings], prefix: str = "") -> Iterator[tuple[str, ScalarField]]:
    """Every scalar setting below a settings class, as (dotted path, field).

    A path comes once for each `kind` that has it: `lr_schedule.gamma` for `step` and for `plateau`.
    """
    for name, field in settings.model_fields.items():
        path = f"{prefix}{name}"
        nested = field_classes(settings, name)
        for member in nested:
            yield from scalar_fields(member, f"{path}.")
        if not nested and is_scalar(field.annotation):
            yield path, ScalarField(settings, name, field)


def field_classes(settings: type[Settings], name: str) -> list[type[Settings]]:
    """The settings classes that a field can hold: none for a scalar, several for a union."""
    field = settings.model_fields.get(name)
    return [] if field is None else list(settings_classes(field.annotation))


def settings_classes(annotation: Any) -> Iterator[type[Settings]]:
    """The settings classes in a type: itself, the members of a union, the values of a dict."""
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        yield annotation
    elif get_origin(annotation) in (Union, types.UnionType, Annotated):
        for part in get_args(annotation):
            yield from settings_classes(part)
    elif get_origin(annotation) is dict:
        yield from settings_classes(get_args(annotation)[1])


def kind_names(settings: type[Settings]) -> tuple[str, ...]:
    """The values of `kind` (an entry's `type`) that choose this class, `<name>` for any name."""
    field = settings.model_fields.get("kind") or settings.model_fields.get("type")
    if field is None:
        return ()
    patterns = (mark.pattern for mark in field.metadata if hasattr(mark, "pattern"))
    return get_args(field.annotation) or tuple(
        pattern.strip("^$").replace(r"\w+", "<name>") for pattern in patterns
    )


def has_kind(settings: type[Settings], kind: object) -> bool:
    """Whether this is the class that `kind` chooses."""
    return any(
        kind == name or (name.endswith("<name>") and str(kind).startswith(name[:-6]))
        for name in kind_names(settings)
    )


def is_scalar(annotation: Any) -> bool:
    """Whether values of this type are numbers, strings or booleans (perhaps with `None`)."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return is_scalar(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return all(part is type(None) or is_scalar(part) for part in get_args(annotation))
    return origin is Literal or annotation in (bool, int, float, str)
