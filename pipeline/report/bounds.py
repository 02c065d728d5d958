"""What `regsearch bounds` prints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pipeline.analysis.bounds import Advice
from pipeline.analysis.next_space import range_text


def bounds_report(advice: Sequence[Advice]) -> RenderableType:
    """A row an entry of the search; what changes is bold."""
    if not advice:
        return Text("Nothing is searched, so there are no bounds to judge.")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("setting", overflow="fold", min_width=max(len(a.path) for a in advice))
    for name in ("range", "importance", "matters", "finding"):
        table.add_column(name)
    for item in advice:
        importance = item.importance
        matters = f"{'yes' if importance.matters else 'no'} (p {importance.p_value:.2g})"
        cells = (item.path, range_text(item.entry), f"{importance.share:.0%}", matters)
        table.add_row(*cells, _finding(item), style="bold" if item.changed else "")
    if any(item.changed for item in advice):
        return table
    return Group(table, Text("Nothing to change: no file is written."))


def _finding(item: Advice) -> str:
    if item.new is None or not item.changed or range_text(item.new) == range_text(item.entry):
        return item.text or "fine"
    return f"{item.text} -> {range_text(item.new)}"


def next_command(path: Path) -> RenderableType:
    """What was written, and how to go on."""
    return Text(
        f"{path} is written; it goes on from this study's trials:\n    regsearch run {path}"
    )
