"""What `regsearch validate` prints: the resolved settings, and what is searched."""

from __future__ import annotations

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pipeline.config import RunConfig
from pipeline.config.search_space import CategoricalEntry, SearchEntry
from pipeline.words import spell


def space_report(config: RunConfig) -> RenderableType:
    """Two tables: the settings as the file and the defaults give them, and the search space."""
    settings = Table("setting", "value", box=box.SIMPLE_HEAD, pad_edge=False)
    for path, value in config.values().items():
        settings.add_row(path, spell(value), style="bold" if path in config.search else "")
    if not config.search:
        return Group(settings, Text("Nothing is searched: the study would try the baselines only."))
    conditional = any(entry.when for entry in config.search.values())
    space = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    space.add_column("searched", overflow="fold", min_width=max(map(len, config.search)))
    space.add_column("type")
    space.add_column("values")
    if conditional:
        space.add_column("when")
    for path, entry in config.space.entries.items():
        condition = [_condition(entry)] if conditional else []
        space.add_row(path, entry.type, _values(entry), *condition)
    return Group(settings, space)


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
