"""The space file of the next study: the study's own text, with the changes and why."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pipeline.analysis.bounds import BoundsReport
from pipeline.config.run_config import RunConfig, flatten
from pipeline.config.search_space import CategoricalEntry, SearchEntry
from pipeline.config.yaml_edit import YamlEdit
from pipeline.config.yaml_file import parse_yaml
from pipeline.errors import UserError
from pipeline.words import spell

CARRIED_OVER = "its trials that fit are carried over, without what is searched no more"
MAX_NAME = 100


def write_next_space(path: Path, text: str) -> None:
    """Write a new file.

    Raises:
        UserError: there is a file already, or it can't be written.
    """
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise UserError(
            "there is a file of this name already",
            where=str(path),
            rule="no file is overwritten",
            cure="name another one by --out, or move this one away",
        ) from None
    except OSError as error:
        raise UserError(
            f"can't write it: {error.strerror}",
            where=str(path),
            rule="a path in a folder that can be written to",
            cure="name another one by --out",
        ) from error


def next_space_text(report: BoundsReport, text: str, studies: Collection[str]) -> str:
    """The text of a study's space file with the next search.

    Args:
        text: as it was when the study began. What the study has by `--set` is written into it, so
            that the next file alone means the same.
        studies: the names that are taken.
    """
    edit = YamlEdit(text)
    _write_settings(edit, report.next.config, report.next.fixed)
    for path, entry in report.config.search.items():
        _write_entry(edit, path, entry, report)
    name = report.config.study.name
    edit.set(("study", "name"), next_name(name, studies))
    warm_start = {"study": name, "ignore": report.next.dropped}
    edit.set(("study", "warm_start"), warm_start, after="name")
    edit.comment(("study", "warm_start"), CARRIED_OVER)
    for path in report.next.fixed:
        edit.comment(path.split("."), _why_fixed(report, path))
    return edit.text


def next_name(name: str, taken: Collection[str]) -> str:
    """`digits-2` after `digits`, `digits-3` after `digits-2`; the first that is not taken."""
    match = re.fullmatch(r"(.+)-(\d{1,6})", name)
    base, number = (match[1], int(match[2])) if match else (name, 1)
    while True:
        number += 1
        end = f"-{number}"
        candidate = base[: MAX_NAME - len(end)] + end
        if candidate not in taken:
            return candidate


def _write_settings(edit: YamlEdit, config: RunConfig, also: Collection[str]) -> None:
    """Write every setting in which the text means something else, kinds first; and `also`."""
    given, wanted = _values(edit.text), config.values()
    for path in sorted(given.keys() - wanted.keys()):  # of another kind
        edit.remove(path.split("."))
    changed = [
        path
        for path in wanted
        if path not in given
        or given[path] != wanted[path]
        or (path in also and not edit.has(path.split(".")))
    ]
    for path in sorted(changed, key=lambda path: not path.endswith(".kind")):
        edit.set(
            path.split("."), wanted[path], after="name" if path.startswith("study.") else "kind"
        )


def _values(text: str) -> Mapping[str, Any]:
    """The settings that a text means; those that it spells out, if it needs `--set` to be right."""
    data = parse_yaml(text, Path("space.yaml")).data
    try:
        return RunConfig.model_validate(data).values()
    except ValidationError:
        return flatten({key: value for key, value in data.items() if key != "search"})


def _write_entry(edit: YamlEdit, path: str, entry: SearchEntry, report: BoundsReport) -> None:
    new, place = report.next.entries.get(path), ("search", path)
    if new is None:
        edit.remove(place)
        return
    if new == entry:
        return
    before, after = entry.model_dump(), new.model_dump()
    for key in after:
        if before[key] != after[key] and after[key] != {}:
            edit.set((*place, key), after[key])
        elif before[key] != after[key]:
            edit.remove((*place, key))
    reasons = [f.text for f in report.findings if f.path == path and f.entry is not None]
    if not reasons:
        edit.comment(place, "its condition (when) was adapted to what is searched now")
        return
    edit.comment(place, f"was {values_of(entry)}: {'; '.join(reasons)}")


def _why_fixed(report: BoundsReport, path: str) -> str:
    (text,) = (f.text for f in report.findings if f.path == path and f.fixed is not None)
    return f"was searched, {values_of(report.config.search[path])}: {text}"


def values_of(entry: SearchEntry) -> str:
    """`0 to 0.5`, or the choices."""
    if isinstance(entry, CategoricalEntry):
        return ", ".join(map(spell, entry.choices))
    return f"{spell(entry.low)} to {spell(entry.high)}"
