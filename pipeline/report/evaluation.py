"""What `regsearch evaluate` prints: the test scores of a registered model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from pipeline.evaluation import Evaluation
from pipeline.readings import Reading
from pipeline.statistics import Scores
from pipeline.words import show_metric

MAX_CONFUSION_CLASSES = 20


def evaluation_report(result: Evaluation) -> RenderableType:
    """The accuracy with its interval, then class by class."""
    scores = result.scores
    head = (
        f"{result.model_name} version {result.model_version} on {scores.num_images:,} test images"
    )
    lines = [
        Text(head, style="bold"),
        Text.assemble(
            "accuracy ",
            (show_metric("accuracy", scores.accuracy), "bold green"),
            f" (95 % interval {scores.accuracy_low:.2%} to {scores.accuracy_high:.2%}), "
            f"loss {scores.loss:.4f}, calibration error {scores.ece:.4f}, "
            f"Brier score {scores.brier:.4f}",
        ),
        Text(_readings(result), style="dim" if result.test_readings == 1 else "yellow"),
    ]
    if not result.same_data:
        warning = "these are not the images of its study: it may have been trained on some of them"
        lines.append(Text(warning, style="yellow"))
    return Group(*lines, Text(""), ClassTable(scores))


def _readings(result: Evaluation) -> str:
    if result.test_readings == 1:
        return f"the first reading of the test split for this version ({_record(result.reading)})"
    first = result.first_reading
    when = "not on record" if first is None else _record(first)
    return (
        f"reading number {result.test_readings} of the test split for this version "
        f"({_record(result.reading)}; the first: {when}): "
        "a model that is chosen by its test score has none left"
    )


def _record(reading: Reading) -> str:
    """`2026-11-25 04:53 UTC by ada, 91.20%`"""
    accuracy = (
        "broken off" if reading.accuracy is None else show_metric("accuracy", reading.accuracy)
    )
    return f"{reading.when[:16].replace('T', ' ')} UTC by {reading.who}, {accuracy}"


@dataclass(frozen=True)
class ClassTable:
    """Accuracy by class, with the confusion matrix beside it where that fits on the screen, and
    else with the class that each is most often taken for. No name of a class is cut short."""

    scores: Scores

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The widest form that fits."""
        names, unbounded = list(self.scores.class_accuracy), options.update(max_width=10_000)
        for headings in (names, [name[:5] for name in names]):
            table = _with_matrix(self.scores, headings)
            fits = Measurement.get(console, unbounded, table).maximum <= options.max_width
            if fits and len(set(headings)) == len(names) <= MAX_CONFUSION_CLASSES:
                yield table
                return
        yield _with_mistakes(self.scores)


def _with_matrix(scores: Scores, headings: Sequence[str]) -> Table:
    table = Table("true class", "accuracy", box=box.SIMPLE_HEAD)
    for heading in headings:
        table.add_column(Text(heading))
    for i, (name, accuracy) in enumerate(scores.class_accuracy.items()):
        cells = [_cell(count, i == j) for j, count in enumerate(scores.confusion[i])]
        table.add_row(Text(name), show_metric("accuracy", accuracy), *cells)
    table.caption = "to the right: how many were told to be each class"
    table.caption_justify = "left"
    return table


def _with_mistakes(scores: Scores) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("true class", overflow="fold")
    table.add_column("accuracy", no_wrap=True, min_width=len("accuracy"))
    table.add_column("most often taken for", overflow="fold")
    names = list(scores.class_accuracy)
    for i, (name, accuracy) in enumerate(scores.class_accuracy.items()):
        told = [0 if i == j else count for j, count in enumerate(scores.confusion[i])]
        most = max(told)
        mistaken = f"{names[told.index(most)]} ({most})" if most else "-"
        table.add_row(Text(name), show_metric("accuracy", accuracy), Text(mistaken))
    return table


def _cell(count: int, on_diagonal: bool) -> Text:
    style = "green" if on_diagonal else "red" if count else "dim"
    return Text(str(count) if count else "·", style=style, justify="right")
