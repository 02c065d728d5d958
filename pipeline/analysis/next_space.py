"""The next space file: a study's own text with better bounds, comments and order kept."""

from __future__ import annotations

import io
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.error import CommentMark
from ruamel.yaml.tokens import CommentToken

from pipeline.analysis.bounds import Advice
from pipeline.config import RunConfig
from pipeline.config.run_config import assign, change_kind
from pipeline.config.search_space import CategoricalEntry, SearchEntry
from pipeline.errors import UserError
from pipeline.words import spell


def next_text(
    text: str, config: RunConfig, advice: Sequence[Advice], taken: Collection[str] = ()
) -> str:
    """The text of the next file, which warm-starts from the study.

    Args:
        text: the study's own space file.
        config: the study's settings, those of `--set` and `--extend` included.
        advice: of the bounds doctor.
        taken: names that other studies have.
    """
    yaml = YAML()
    yaml.preserve_quotes, yaml.width = True, 4096
    data = yaml.load(text)
    fixed = {a.path: a.fixed for a in advice if a.fixed is not None}
    _apply_settings(data, RunConfig.model_validate(_plain(text)), config.with_overrides(fixed))
    for path, entry in config.search.items():
        _update(data["search"][path], entry)  # wider than the text where the study was extended
    for item in advice:
        if item.new is None:
            del data["search"][item.path]
        elif item.changed:
            _update(data["search"][item.path], item.new)
            _comment(data["search"], item.path, f"was {range_text(item.entry)}: {item.text}")
    dropped = [item.path for item in advice if item.new is None]
    data["study"]["name"] = next_name(config.study.name, taken)
    data["study"]["warm_start"] = {"study": config.study.name, "ignore": dropped}
    out = io.StringIO()
    yaml.dump(data, out)
    return out.getvalue()


def _plain(text: str) -> dict[str, Any]:
    data: dict[str, Any] = YAML(typ="safe", pure=True).load(text)
    return data


def next_name(name: str, taken: Collection[str] = ()) -> str:
    """`digits` -> `digits-2` -> `digits-3`, past the names that are taken."""
    match = re.fullmatch(r"(.*)-(\d{1,9})", name)
    stem, number = (match[1], int(match[2]) + 1) if match else (name, 2)
    while f"{stem}-{number}" in taken:
        number += 1
    return f"{stem}-{number}"


def range_text(entry: SearchEntry) -> str:
    """`0 to 0.5`, or the choices."""
    if isinstance(entry, CategoricalEntry):
        return ", ".join(map(spell, entry.choices))
    return f"{spell(entry.low)} to {spell(entry.high)}"


def _apply_settings(data: Any, written: RunConfig, wanted: RunConfig) -> None:
    """Bring the text's settings to those that are wanted, by way of the differences alone."""
    then, now = written.values(), wanted.values()
    for path, value in now.items():
        if path.endswith(".kind") and then.get(path) != value:
            change_kind(data, path.removesuffix(".kind"), str(value))
            assign(data, path, value)
    for path, value in now.items():
        if path not in then or then[path] != value:
            assign(data, path, value)


def _update(node: CommentedMap, entry: SearchEntry) -> None:
    """Write what differs of an entry into its mapping."""
    for key, value in entry.model_dump().items():
        default = type(entry).model_fields[key].get_default(call_default_factory=True)
        if key in node and value == default and key == "when":
            del node[key]
        elif node.get(key, default) != value:
            node[key] = value


def _comment(search: CommentedMap, path: str, text: str) -> None:
    """Put a comment at an entry's end of line, before one that stands there."""
    node = search[path]
    owner, key = (search, path) if node.fa.flow_style() else (node, next(iter(node)))
    item = owner.ca.items.setdefault(key, [None, None, None, None])
    old = "\n" if item[2] is None else item[2].value
    first, newline, rest = old.partition("\n")
    own = first.strip().lstrip("#").strip()
    value = f"# {text}{'; ' + own if own else ''}{newline or chr(10)}{rest}"
    column = 0 if item[2] is None else item[2].start_mark.column
    item[2] = CommentToken(value, CommentMark(column))


def write_next(path: Path, text: str) -> None:
    """Write the file; never over another.

    Raises:
        UserError: there is such a file, or it can't be written.
    """
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise UserError(
            "there is such a file already",
            where=str(path),
            rule="a space file is never overwritten",
            cure="name another file with --out, or move this one away",
        ) from None
    except OSError as error:
        raise UserError(
            f"can't write it: {error.strerror}",
            where=str(path),
            rule="a path in a folder that is there",
            cure="name another file with --out",
        ) from error
