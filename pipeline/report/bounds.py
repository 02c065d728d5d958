"""What `regsearch bounds` prints: what matters, what is wrong with the bounds, what comes next."""

from __future__ import annotations

import shlex
from pathlib import Path

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pipeline.analysis.bounds import BoundsFinding, BoundsReport
from pipeline.analysis.importance import Importance
from pipeline.analysis.next_space import values_of
from pipeline.words import spell


def bounds_report(report: BoundsReport, written: Path | None) -> RenderableType:
    """A row a searched setting, and the command that runs the next study, if there is a file."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("searched", overflow="fold")
    for column in ("range", "importance", "matters?", "finding"):
        table.add_column(column)
    ordered = {one.path: one for one in report.importances}
    for path in (*ordered, *(p for p in report.config.search if p not in ordered)):
        table.add_row(*_row(report, path, ordered.get(path)))
    head = f"{report.config.study.name}: {report.num_trials} finished trials, without baselines"
    return Group(Text(head, style="bold"), table, *_next(report, written))


def _row(report: BoundsReport, path: str, one: Importance | None) -> list[str]:
    findings = [found for found in report.findings if found.path == path]
    share = "-" if one is None else f"{one.share:.0%}"
    words = "; ".join(map(sentence, findings)) or "fine"
    return [path, values_of(report.config.search[path]), share, _matters(one), words]


def _matters(one: Importance | None) -> str:
    if one is None or one.matters is None:
        return "can't tell"
    p_value = f"p = {one.p_value:.2f}" if one.p_value is not None else ""
    return f"{'yes' if one.matters else 'no'} ({p_value})"


def sentence(found: BoundsFinding) -> str:
    """What was found and what becomes of the setting next."""
    if found.fixed is not None:
        return f"{found.text} → fixed at {spell(found.fixed)}"
    if found.entry is not None:
        return f"{found.text} → {values_of(found.entry)}"
    return f"{found.text} → not searched" if found.kind == "dropped" else found.text


def _next(report: BoundsReport, written: Path | None) -> list[Text]:
    if not report.is_changed:
        return [Text("The bounds are fine: nothing is written.", style="green")]
    if not report.next.entries:
        words = "Nothing that was searched matters here: another search is not worth its time."
        return [Text(words, style="yellow")]
    assert written is not None
    command = f"    regsearch run {shlex.quote(str(written))}"
    return [Text(f"Written to {written}. Search on from there:"), Text(command, style="bold")]
