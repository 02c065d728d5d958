"""What `regsearch reproduce` prints: an epoch a line, and how far the curve is from the record."""

from __future__ import annotations

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pipeline.recorded_trial import Record
from pipeline.reproduction import Difference, Reproduction
from pipeline.words import describe


def record_line(record: Record) -> str:
    """What is going to be trained, and how."""
    training = record.config.training
    settings = describe(record.overrides) or "as the file has it"
    threads = f", {record.threads} thread{'s'[: record.threads - 1]}" if record.threads else ""
    return (
        f"{record.name}: {record.num_epochs} epochs on record; again on {record.device}{threads}, "
        f"{training.precision}, {training.engine}: {settings}"
    )


def epoch_line(record: Record, epoch: int, worst: Difference) -> str:
    """`epoch 3 of 10: identical`, or the metric that is off by the most."""
    told = f"off by up to {worst.size:.2g} ({worst.metric})" if worst.size else "identical"
    return f"epoch {epoch} of {record.num_epochs}: {told}"


def reproduction_report(result: Reproduction) -> RenderableType:
    """A row a metric, the verdict, and what may explain it."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("metric", no_wrap=True)
    for column in ("largest difference", "at epoch", "on record"):
        table.add_column(column, justify="right")
    for found in result.differences:
        table.add_row(*_row(found), style="yellow" if found.size else "")
    lines = [_verdict(result), *(Text(note, style="yellow") for note in result.record.notes)]
    return Group(table, *lines, *_changes(result))


def _row(found: Difference) -> list[str]:
    if not found.size:
        return [found.metric, "none"]
    return [found.metric, f"{found.size:.2g}", str(found.epoch), f"{found.recorded:.6g}"]


def _verdict(result: Reproduction) -> Text:
    if result.identical:
        count = len(result.differences)
        words = f"identical, bit for bit: {count} metrics in {len(result.again)} epochs"
        return Text(words, style="bold green")
    if result.ended:
        return Text(
            f"not the same: {result.ended}, and the record has {result.record.num_epochs} epochs",
            style="bold yellow",
        )
    off = sum(found.size > 0 for found in result.differences)
    words = f"not the same: {off} of {len(result.differences)} metrics differ"
    return Text(words, style="bold yellow")


def _changes(result: Reproduction) -> list[Text]:
    lines = [Text(f"  {line}") for line in result.record.changes]
    if result.identical:
        return [Text("though this has changed:"), *lines] if lines else []
    if lines:
        return [Text("this has changed, and may be why:"), *lines]
    if result.record.device != "cpu":
        return [Text("nothing that is on record has changed; a GPU may add in another order")]
    return [Text("nothing that is on record has changed: look for a change of the code")]
