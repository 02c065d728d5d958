"""The file that the bounds doctor writes, and the command that writes it."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from pipeline.analysis.bounds import BoundsReport, examine_bounds
from pipeline.analysis.next_space import next_name, next_space_text
from pipeline.config.space_file import load_space
from pipeline.config.yaml_edit import YamlEdit, written
from pipeline.report.bounds import bounds_report
from pipeline.status import open_ledgers
from pipeline.study.ledger import Ledger
from tests.commands import regsearch_here
from tests.synthetic import KNOWN, run_study
from tests.test_bounds import CONDITIONAL, DECAY, DROPOUT, GAMMA, KIND, SMOOTHING

TRIALS = "study.trials=62"


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Ledger:
    """A study of `KNOWN` at its end, begun with `--set`."""
    folder = tmp_path_factory.mktemp("bounds")
    # The store alone is asked from here on, as the command does.
    given = ("study.sampler.kind=random", "training.epochs=7", "regularization.l1=1e-5")
    run_study(folder, TRIALS, "study.seed=3", *given)
    return next(open_ledgers(f"sqlite:///{folder}/optuna.db", "tiny"))


def next_text(ledger: Ledger, report: BoundsReport | None = None) -> str:
    report = report or examine_bounds(ledger.config, ledger.trials())
    text = ledger.recorded("artifacts")["space.yaml"]
    return next_space_text(report, text, [ledger.config.study.name])


def test_the_file_has_the_better_bounds_and_the_users_comments(
    study: Ledger, tmp_path: Path
) -> None:
    text = next_text(study)
    path = tmp_path / "next.yaml"
    path.write_text(text)
    config = load_space(path).config
    assert config.study.name == "tiny-2"
    assert list(config.search) == [DROPOUT, DECAY]
    assert config.search[DROPOUT].edges()[1] == 0.45
    assert config.regularization.label_smoothing == 0.0
    for line in KNOWN.splitlines():
        if "#" in line:
            assert line[line.index("#") :] in text
    (dropout,) = (line for line in text.splitlines() if DROPOUT in line)
    assert dropout.startswith(f"  {DROPOUT}:          {{type: float, low: ")  # columns stay
    assert "# dropout's own remark; was 0 to 0.3: the best trials lie at its upper edge" in dropout
    assert "# was searched, 0 to 0.2: no effect of it can be told from 60 trials" in text


def test_the_file_warm_starts_from_the_study(study: Ledger) -> None:
    text = next_text(study)
    line = "  warm_start: {study: tiny, ignore: [regularization.label_smoothing]}  # its trials"
    assert f"  name: tiny-2\n{line}" in text


def test_what_was_given_by_set_is_in_the_file(study: Ledger, tmp_path: Path) -> None:
    path = tmp_path / "next.yaml"
    path.write_text(next_text(study))
    then, now = study.config.values(), load_space(path).config.values()
    assert (now["training.epochs"], now["regularization.l1"]) == (7, 1e-5)
    assert {key for key in then if then[key] != now.get(key)} == {"study.name"}


def test_a_fixed_kind_takes_its_keys_and_conditions_along(tmp_path: Path) -> None:
    text = CONDITIONAL.replace("{kind: cosine}", "{kind: step, step_epochs: 1, gamma: 0.3}")
    ledger = run_study(tmp_path, TRIALS, "study.sampler.kind=random", text=text)
    report = examine_bounds(ledger.config, ledger.trials())
    assert KIND not in report.next.entries  # nothing depends on the schedule here
    for kind in ("cosine", "plateau"):
        report.next.entries, report.next.fixed = dict(ledger.config.search), {}
        assert report.next.fix(KIND, kind)
        path = tmp_path / f"{kind}.yaml"
        path.write_text(next_text(ledger, report).replace("\r", ""))
        config = load_space(path).config
        assert config.lr_schedule.kind == kind
        assert "step_epochs" not in path.read_text()
        assert (GAMMA in config.search) == (kind == "plateau")
        assert all(not entry.when for entry in config.search.values())


@pytest.mark.parametrize(
    ("name", "taken", "after"),
    [
        ("digits", [], "digits-2"),
        ("digits-2", ["digits-2"], "digits-3"),
        ("digits", ["digits-2", "digits-3"], "digits-4"),
        ("cifar-10", [], "cifar-11"),
        ("x" * 100, [], "x" * 98 + "-2"),
    ],
)
def test_the_next_study_has_the_next_free_name(name: str, taken: list[str], after: str) -> None:
    assert next_name(name, taken) == after


BLOCK = """\
# above
study:
  name: x   # the name
  # before search

# about the search
search:
  # first
  a.b:
    type: float
    low: 1e-5  # low's remark
    high: 0.5
  # second
  c.d: {type: int, low: 1, high: 3}   # c.d's remark
model: {kind: vgg, 'quoted # key': "a # b"}
empty:
"""


def test_an_edit_changes_its_value_and_nothing_else() -> None:
    edit = YamlEdit(BLOCK)
    edit.set(("search", "a.b", "low"), 1e-7)
    edit.set(("search", "c.d", "high"), 5)
    assert edit.text == BLOCK.replace("1e-5", "1e-7").replace("high: 3", "high: 5")


def test_a_removed_entry_takes_no_other_comment_along() -> None:
    edit = YamlEdit(BLOCK)
    edit.remove(("search", "a.b"))
    start, end = BLOCK.index("  a.b:"), BLOCK.index("  # second")
    assert edit.text == BLOCK[:start] + BLOCK[end:]
    edit.remove(("model", "kind"))
    edit.remove(("search", "c.d", "high"))
    assert "model: {'quoted # key'" in edit.text
    assert "c.d: {type: int, low: 1}   # c.d's remark" in edit.text


def test_comments_go_behind_those_that_are_there() -> None:
    edit = YamlEdit(BLOCK)
    edit.comment(("search", "a.b"), "block")
    edit.comment(("search", "c.d"), "wider")
    edit.comment(("search", "c.d"), "wider")
    edit.comment(("model", "kind"), "fixed")
    assert "  a.b:  # block\n" in edit.text
    assert "# c.d's remark; wider\n" in edit.text
    assert '"a # b"}  # fixed\n' in edit.text
    assert yaml.safe_load(edit.text) == yaml.safe_load(BLOCK)


def test_new_settings_stand_in_their_sections() -> None:
    edit = YamlEdit(BLOCK)
    edit.set(("study", "seed"), 3, after="name")
    edit.set(("model", "width"), 4, after="kind")
    edit.set(("empty", "deep", "er"), None)
    edit.set(("new", "key"), "no: such", after="kind")
    assert "  name: x   # the name\n  seed: 3\n  # before search" in edit.text
    assert "model: {kind: vgg, width: 4, 'quoted" in edit.text
    data = yaml.safe_load(edit.text)
    assert data["empty"] == {"deep": {"er": None}}
    assert data["new"] == {"key": "no: such"}
    assert edit.text.index("# above") < edit.text.index("study:")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1e-05, "1e-5"),
        (0.1, "0.1"),
        (1e20, "1e20"),
        (True, "true"),
        (None, "null"),
        ("1e5", '"1e5"'),
        ("true", '"true"'),
        ([0.0, "none"], "[0.0, none]"),
    ],
)
def test_values_are_written_so_that_they_are_read_as_they_were(value: object, text: str) -> None:
    assert written(value) == text


def test_the_command_prints_a_table_and_writes_a_file_once(study: Ledger, tmp_path: Path) -> None:
    url = str(study.store.engine.url)
    first = regsearch_here("bounds", "tiny", "--storage", url, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    assert "regsearch run tiny.next.yaml" in first.stdout
    assert "matters?" in first.stdout
    assert (tmp_path / "tiny.next.yaml").read_text() == next_text(study)
    second = regsearch_here(
        "bounds", "tiny", "--storage", url, "--out", "tiny.next.yaml", cwd=tmp_path
    )
    assert second.returncode == 2
    assert "name another one by --out" in second.stderr
    unknown = regsearch_here("bounds", "other", "--storage", url, cwd=tmp_path)
    assert unknown.returncode == 2
    assert "no study 'other'" in unknown.stderr


def test_bounds_that_are_fine_are_said_to_be(study: Ledger) -> None:
    report = examine_bounds(study.config, study.trials())
    report.next.entries = dict(study.config.search)
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(bounds_report(report, None))
    printed = console.export_text()
    assert "The bounds are fine: nothing is written." in printed
    assert SMOOTHING in printed
