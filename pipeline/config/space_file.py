"""A space file -> `Space`: read, checked, and ready to run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pipeline.config.problems import explain, raise_all
from pipeline.config.pruning_check import check_pruning
from pipeline.config.run_config import RunConfig, assign, change_kind
from pipeline.config.space_check import check_search
from pipeline.config.yaml_errors import SYNTAX
from pipeline.config.yaml_file import Place, parse_scalar, parse_yaml, read_yaml
from pipeline.errors import UserError


@dataclass(frozen=True)
class Space:
    """A space file as it was read: its settings and its text."""

    path: Path
    text: str
    config: RunConfig


def load_space(path: Path, assignments: Sequence[str] = ()) -> Space:
    """Read a space file and check everything that can be checked without the images.

    Args:
        path: the YAML file.
        assignments: `dotted.key=value`, as if each stood in the file; a value may be a list or a
            mapping in brackets.

    Raises:
        UserError: naming file and line (or the assignment), the rule and the cure.
    """
    file = read_yaml(path)
    given = _apply_assignments(file.data, assignments)

    def where(place: Place) -> str:
        texts = (
            f"--set {text}"
            for key, text in given.items()
            if place[: len(key)] == key[: len(place)]  # the assignment's own, within it, or above
        )
        return next(texts, file.where(place))

    try:
        config = RunConfig.model_validate(file.data)
    except ValidationError as error:
        raise_all(p.at(where) for p in explain(error, file.data, RunConfig))
    raise_all(p.at(where) for p in config.problems())
    raise_all(p.at(where) for p in check_pruning(config))
    raise_all(p.at(where) for p in check_search(config))
    return Space(path, file.text, config)


def _apply_assignments(data: dict[str, Any], assignments: Sequence[str]) -> dict[Place, str]:
    """Write `dotted.key=value` into a file's data; which place came from which assignment."""
    places: dict[Place, str] = {}
    for text in assignments:
        path, equals, value = text.partition("=")
        if not equals or not path or path.split(".")[0] == "search":
            raise UserError(
                "not an assignment to a setting",
                where=f"--set {text}",
                rule="dotted.key=value, for any setting outside of `search:`",
                cure="for instance --set training.epochs=10; what is searched stands in the file",
            )
        if path.endswith(".kind"):
            change_kind(data, path.removesuffix(".kind"), value)
        assign(data, path, _value(path, value, text))
        places[tuple(path.split("."))] = text
    return places


def _value(path: str, value: str, text: str) -> Any:
    """What `--set path=value` means: a plain scalar, or a list or mapping as YAML has them."""
    if not value.startswith(("[", "{")):
        return parse_scalar(value)
    try:
        data = parse_yaml(f"{json.dumps(path)}: {value}", Path("--set")).data
    except UserError as error:
        raise _of_value(error, text) from error
    if list(data) != [path]:  # a line break, and another key behind it
        raise _of_value(UserError("", rule=SYNTAX), text)
    return data[path]


def _of_value(error: UserError, text: str) -> UserError:
    """The same error, told of an assignment; there, lines and indentation say nothing."""
    where = f"--set {text}"
    if error.rule != SYNTAX:
        return UserError(error.what, where=where, rule=error.rule, cure=error.cure)
    return UserError(
        "the value begins like a list or a mapping, but is none",
        where=where,
        rule="[one, two] or {key: value}: brackets in pairs, and a space after each colon",
        cure="mend the value, and put the assignment in quotes, for the shell's sake",
    )
