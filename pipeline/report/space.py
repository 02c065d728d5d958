"""What `regsearch validate` prints: the resolved settings, and what is searched."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pipeline.config import RunConfig
from pipeline.config.search_space import CategoricalEntry, SearchEntry
from pipeline.words import spell


def space_report(config: RunConfig) -> RenderableType:
    """Two tables: the settings as the file and the defaults give them, and the search space."""
    values = config.values()
    if config.study.metrics is not None:
        del values["study.metric"]  # it follows from them
    settings = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    settings.add_column("setting", no_wrap=True)
    settings.add_column("value", overflow="fold")
    for path, value in values.items():
        settings.add_row(path, Text(_spelled(value)), style="bold" if path in config.search else "")
    if not config.search:
        return Group(settings, Text("Nothing is searched: the study would try the baselines only."))
    space = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    space.add_column("searched", no_wrap=True)
    space.add_column("type", no_wrap=True)
    space.add_column("values", overflow="fold")
    for path, entry in config.space.entries.items():
        when = f"\nwhen {_condition(entry)}" if entry.when else ""
        space.add_row(path, entry.type, Text(f"{_values(entry)}{when}"))
    return Group(settings, space)


def _spelled(value: Any) -> str:
    """A setting's value; a list as YAML has it."""
    return f"[{', '.join(map(spell, value))}]" if isinstance(value, list) else spell(value)


def _values(entry: SearchEntry) -> str:
    if isinstance(entry, CategoricalEntry):
        return ", ".join(map(spell, entry.choices))
    scale = ", log scale" if entry.log else ""
    step = f", in steps of {spell(entry.step)}" if entry.step is not None else ""
    return f"{spell(entry.low)} to {spell(entry.high)}{scale}{step}"


def _condition(entry: SearchEntry) -> str:
    return " and ".join(
        f"{path} is {' or '.join(map(spell, entry.values_of(path)))}" for path in entry.when
    )
