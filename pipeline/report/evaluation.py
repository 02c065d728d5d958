"""What `regsearch evaluate` prints: the test scores of a registered model."""

from __future__ import annotations

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pipeline.evaluation import Evaluation
from pipeline.readings import Reading
from pipeline.statistics import Scores
from pipeline.words import show_metric

MAX_CONFUSION_CLASSES = 20


def evaluation_report(result: Evaluation) -> RenderableType:
    """The accuracy with its interval, then class by class, then the confusion matrix."""
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
    return Group(*lines, Text(""), _classes(scores))


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


def _classes(scores: Scores) -> Table:
    """Accuracy by class, and the confusion matrix beside it where it fits on a screen."""
    names = list(scores.class_accuracy)
    show_matrix = len(names) <= MAX_CONFUSION_CLASSES
    columns = [name[:5] for name in names] if show_matrix else []
    table = Table("true class", "accuracy", *columns, box=box.SIMPLE_HEAD)
    for i, (name, accuracy) in enumerate(scores.class_accuracy.items()):
        cells = [_cell(count, i == j) for j, count in enumerate(scores.confusion[i])]
        table.add_row(name, show_metric("accuracy", accuracy), *(cells if show_matrix else []))
    if show_matrix:
        table.caption = "to the right: how many were told to be each class"
        table.caption_justify = "left"
    return table


def _cell(count: int, on_diagonal: bool) -> Text:
    style = "green" if on_diagonal else "red" if count else "dim"
    return Text(str(count) if count else "·", style=style, justify="right")
