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
    """A row a searched setting, what was found, and the command that runs the next study, if there
    is a file. Findings are sentences, for which a narrow screen has no column."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("searched", no_wrap=True)
    table.add_column("range", overflow="fold")
    table.add_column("importance", no_wrap=True)
    table.add_column("matters?", overflow="fold")
    for path in _ordered(report):
        table.add_row(*map(Text, _row(report, path)))
    head = f"{report.config.study.name}: {report.num_trials} finished trials, without baselines"
    told = [found for found in report.findings if found.kind != "too_few"]
    sentences = [Text(f"{found.path}: {sentence(found)}") for found in told]
    space = [Text("")] if sentences else []
    return Group(Text(head, style="bold"), table, *sentences, *space, *_next(report, written))


def _ordered(report: BoundsReport) -> list[str]:
    """As they matter by the first metric; those without a figure last."""
    first = next(iter(report.importances.values()))
    known = [one.path for one in first]
    return [*known, *(path for path in report.config.search if path not in known)]


def _row(report: BoundsReport, path: str) -> list[str]:
    """Of several metrics, each has a line of the row."""
    by = {
        metric: next((one for one in found if one.path == path), None)
        for metric, found in report.importances.items()
    }
    names = [f"{metric.rpartition('/')[2]} " if len(by) > 1 else "" for metric in by]
    shares = ["-" if one is None else f"{one.share:.0%}" for one in by.values()]
    matters = [f"{name}{_matters(one)}" for name, one in zip(names, by.values(), strict=True)]
    return [
        path,
        values_of(report.config.search[path]),
        "\n".join(shares),
        "\n".join(matters),
    ]


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
    untold = _untold(report)
    if report.is_changed and not report.next.entries:
        words = "Nothing that was searched matters here: another search is not worth its time."
        return [Text(words, style="yellow")]
    if report.is_changed:
        assert written is not None
        command = f"    regsearch run {shlex.quote(str(written))}"
        words = f"Written to {written}. Search on from there:"
        return [*untold, Text(words), Text(command, style="bold")]
    if not untold:
        return [Text("The bounds are fine: nothing is written.", style="green")]
    command = f"    regsearch run SPACE.yaml --trials {report.enough}"
    words = f"Nothing is written. {report.enough} finished trials may do to tell:"
    return [*untold, Text(words), Text(command, style="bold")]


def _untold(report: BoundsReport) -> list[Text]:
    """The settings that nothing can be told of yet, if there are any."""
    untold = report.untold
    if not untold:
        return []
    whole = len(untold) == len(report.config.search)
    words = "of any setting" if whole else f"of {', '.join(untold)}"
    return [Text(f"Nothing can be told yet {words}: too few trials.", style="yellow")]
