"""Tables on screens of several widths: what must never be cut, and what gives way."""

from __future__ import annotations

import io

import numpy as np
import pytest
from rich.console import Console, RenderableType

from pipeline.report.evaluation import ClassTable
from pipeline.statistics import Scores, score

CIFAR = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def printed(what: RenderableType, width: int) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(what)
    return console.export_text()


def scores(names: tuple[str, ...]) -> Scores:
    """Of 1,000 images a class; 30 of each are taken for the next class."""
    num = len(names)
    labels = np.repeat(np.arange(num), 1000)
    told = (labels + (np.arange(len(labels)) % 1000 < 30)) % num
    return score(np.eye(num, dtype=np.float32)[told], labels, names)


@pytest.mark.parametrize(
    ("width", "headings", "matrix"),
    [(160, CIFAR, True), (100, [name[:5] for name in CIFAR], True), (80, (), False)],
)
def test_the_confusion_matrix_gives_way_to_a_narrow_screen(
    width: int, headings: tuple[str, ...], matrix: bool
) -> None:
    """The names of the classes and their accuracies don't."""
    text = printed(ClassTable(scores(CIFAR)), width)
    assert "…" not in text
    head, _, *rows = (line.split() for line in text.splitlines() if line.strip())
    assert [row[:2] for row in rows[:10]] == [[name, "97.00%"] for name in CIFAR]
    assert head[:3] == ["true", "class", "accuracy"]
    assert head[3:] == (list(headings) if matrix else ["most", "often", "taken", "for"])
    assert rows[8][2:] == (["·"] * 8 + ["970", "30"] if matrix else ["truck", "(30)"])
    assert max(map(len, text.splitlines())) <= width


def test_names_that_begin_alike_head_no_columns_and_long_ones_are_folded() -> None:
    names = tuple(f"plane number {i} of the airport's own fleet" for i in range(3))
    text = printed(ClassTable(scores(names)), 80)
    assert "most often taken for" in text
    narrow = printed(ClassTable(scores(names)), 40)
    assert "…" not in narrow
    assert narrow.count("97.00%") == 3
