"""What `regsearch status`, `sync` and `doctor` print."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pipeline.errors import redact
from pipeline.words import duration

if TYPE_CHECKING:
    from pipeline.status import FollowUpStatus, RunningTrial, StudyStatus
    from pipeline.sync import Synced
    from pipeline.tracking import Finding


def status_report(statuses: Sequence[StudyStatus]) -> RenderableType:
    """Each study's counts, best, running trials and place on disk."""
    if not statuses:
        return Text("The store has no study yet.")
    return Group(*(part for status in statuses for part in _study(status)))


def _study(status: StudyStatus) -> list[RenderableType]:
    standing = status.standing
    counts = [standing.counts(), f"{len(status.running)} running", f"{status.waiting} waiting"]
    disk = ", ".join(f"{name} {_size(count)}" for name, count in status.disk_bytes.items())
    parts: list[RenderableType] = [
        Text(status.name, style="bold"),
        Text(f"  {standing.finished} of {standing.target} trials finished ({', '.join(counts)})"),
        Text(f"  best of the search by {standing.metric}: {standing.best}"),
        Text(f"  on disk: {disk}", style="dim"),
    ]
    if status.champion:
        parts.append(Text(f"  champion: {status.champion}"))
    parts += [Text(f"  {_followup(one)}") for one in status.followups]
    running = [*status.running, *(trial for one in status.followups for trial in one.running)]
    if running:
        parts.append(_running(running))
    return [*parts, Text("")]


def _followup(status: FollowUpStatus) -> str:
    counts = {"running": len(status.running), "waiting": status.waiting, "failed": status.failed}
    others = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    done = f"{status.complete} of {status.target} trainings done"
    return f"{status.kind}: {done}" + (f" ({others})" if others else "")


def _running(trials: Sequence[RunningTrial]) -> Table:
    columns = ("running", "attempt", "epoch", "worker", "last heard of")
    table = Table(*columns, box=box.SIMPLE_HEAD, pad_edge=False)
    for trial in trials:
        heard = "its process is gone" if trial.is_dead else f"{duration(trial.heard_sec)} ago"
        cells = (trial.name, str(trial.attempt), str(trial.epoch), trial.worker, heard)
        table.add_row(*cells, style="yellow" if trial.is_dead else "")
    return table


def _size(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"


def sync_report(results: Sequence[Synced]) -> RenderableType:
    """A line a study, and what did not get through."""
    if not results:
        return Text("The store has no study yet.")
    lines = []
    for result in results:
        registered = [r.registered.uri for r in result.registered if r.registered]
        also = f"; registered {', '.join(registered)}" if registered else ""
        head = "MLflow has all of it" if result.complete else "MLflow does not have all of it"
        style = "green" if result.complete else "yellow"
        lines.append(Text.assemble(f"{result.study}: ", (head, style), also))
        lines += [Text(f"  {redact(finding.text)}") for finding in result.findings]
        moved = [r.registered.moved for r in result.registered if r.registered]
        lines += [Text(f"  {line}") for line in moved if line]
        lines += [Text(f"  {redact(text)}", style="yellow") for text in _left(result)]
    return Group(*lines)


def _left(result: Synced) -> list[str]:
    delivery = result.delivery
    lines = [
        f"the {r.alias} is not registered: {r.problem}" for r in result.registered if r.problem
    ]
    if delivery.num_pending:
        reason = delivery.last_error or "it was too slow"
        lines.append(f"{delivery.num_pending} events still wait: {reason}")
    return lines + [f"refused: {text}" for text in delivery.refused]


def doctor_report(findings: Sequence[Finding], *, fix: bool) -> RenderableType:
    """A line a finding, and what to do."""
    if not findings:
        return Text("Nothing is wrong.", style="green")
    lines = [
        Text.assemble(("mended  ", "green") if f.fixed else ("wrong   ", "yellow"), redact(f.text))
        for f in findings
    ]
    if not fix and any(found.mendable for found in findings):
        lines.append(Text("\nmend what can be mended:\n    regsearch doctor --fix", style="bold"))
    return Group(*lines)
