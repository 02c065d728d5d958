"""Tables on screens of several widths: what must never be cut, and what gives way."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console, RenderableType

from pipeline.analysis.bounds import examine_bounds
from pipeline.config.space_file import load_space
from pipeline.report.bounds import bounds_report
from pipeline.report.evaluation import ClassTable
from pipeline.report.space import space_report
from pipeline.statistics import Scores, score
from pipeline.study.trials import BASELINE
from tests.spaces import TINY, tiny_config
from tests.synthetic import KNOWN, drawn_study

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


def chance_alone(folder: Path, num_trials: int, *assignments: str) -> list[FrozenTrial]:
    """Trials of `KNOWN` whose values say nothing of what was drawn, and a baseline."""
    config = tiny_config(folder, "study.sampler.kind=random", *assignments, text=KNOWN)
    trials = drawn_study(config, 0, num_trials=num_trials)
    for i, one in enumerate(trials):
        one.value = i * 7 % 11 / 11
    baseline = optuna.create_trial(state=TrialState.COMPLETE, value=0.5)
    baseline.set_user_attr(BASELINE, "recipe")
    return [*trials, baseline]


def test_bounds_of_which_nothing_can_be_told_are_not_called_fine(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, text=KNOWN)
    report = examine_bounds(config, chance_alone(tmp_path, 18))
    assert sorted(report.untold) == sorted(config.search)
    text = printed(bounds_report(report, None), 80)
    assert "are fine" not in text
    assert text.count("too few") == 1
    # 18 of 30 that may do, and the baseline counts in the study.
    assert "Nothing can be told yet of any setting: too few trials." in text
    assert "31 finished trials may do" in text
    assert "regsearch run SPACE.yaml --trials 31" in text


def test_a_setting_that_few_trials_have_needs_more_of_them(tmp_path: Path) -> None:
    """Six of 60 trials had it: 24 more, of which each costs ten."""
    config = tiny_config(tmp_path, text=KNOWN)
    trials = chance_alone(tmp_path, 60)
    path = "regularization.label_smoothing"
    for one in trials[6:60]:
        one.params = {name: value for name, value in one.params.items() if name != path}
        one.distributions = {name: one.distributions[name] for name in one.params}
    report = examine_bounds(config, trials)
    assert report.untold == [path]
    assert report.enough == 61 + 240
    text = printed(bounds_report(report, tmp_path / "next.yaml"), 80)
    assert f"Nothing can be told yet of {path}: too few trials." in " ".join(text.split())


def test_the_names_of_settings_are_whole_where_bounds_are_judged(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, "study.sampler.kind=random", text=KNOWN)
    report = examine_bounds(config, drawn_study(config, 100))
    text = printed(bounds_report(report, tmp_path / "next.yaml"), 80)
    assert "…" not in text
    table, findings = text.partition("\n\n")[0], " ".join(text.split())
    assert {*config.search} <= {*table.split()}
    for found in report.findings:
        assert f"{found.path}: {found.text}" in findings
