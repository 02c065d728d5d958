"""Tables on screens of several widths: what must never be cut, and what gives way."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console, RenderableType

from pipeline.config.space_file import load_space
from pipeline.report.evaluation import ClassTable
from pipeline.report.space import space_report
from pipeline.statistics import Scores, score
from tests.spaces import TINY, tiny_config

SPACES = Path(__file__).parents[1] / "search_spaces"

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


@pytest.mark.parametrize("width", [80, 64])
def test_a_space_is_shown_whole_on_a_narrow_screen(width: int) -> None:
    config = load_space(SPACES / "cifar.yaml").config
    text = printed(space_report(config), width)
    assert "…" not in text
    words = text.split()
    assert {*config.search, *config.values()} <= {*words}
    gamma = words[words.index("lr_schedule.gamma", words.index("searched")) :]
    assert " ".join(gamma[:11]).startswith("lr_schedule.gamma float 0.05 to 0.5 when")
    assert " ".join(gamma[5:11]) == "when lr_schedule.kind is step or plateau"


def test_metrics_are_shown_as_in_yaml_without_the_one_that_follows_from_them(
    tmp_path: Path,
) -> None:
    metrics = "metrics: [validation/accuracy, validation/ece]"
    text = TINY.replace("pruner: {kind: none}", metrics)
    shown = printed(space_report(tiny_config(tmp_path, text=text)), 100)
    assert "[validation/accuracy, validation/ece]" in shown
    assert "study.metric " not in shown
    assert "study.metric " in printed(space_report(tiny_config(tmp_path)), 100)
