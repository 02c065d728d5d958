"""`regsearch report`: one file with all that a study has to tell, and nothing to load."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import mlflow
import numpy as np
import optuna
import pytest
from mlflow import MlflowClient
from rich.console import Console

from pipeline.ablation import Ablation, Effect
from pipeline.analysis.bounds import BoundsFinding, BoundsReport
from pipeline.analysis.next_search import NextSearch
from pipeline.answers import Answers
from pipeline.datasets import DigitsSettings
from pipeline.decision import points
from pipeline.errors import UserError
from pipeline.finalists import KIND, Finalist, Verdict
from pipeline.outcome import Outcome
from pipeline.progress import LogView
from pipeline.report.advice import advice
from pipeline.report.evidence import gather
from pipeline.report.html import SECTIONS, render, write_report
from pipeline.report.sections.head import verdict_words
from pipeline.search import Options, run_search
from pipeline.study.followup import ANSWERS, FollowUp
from pipeline.study.ledger import Ledger
from pipeline.study.record import remember_settings
from pipeline.study.storage import open_storage
from pipeline.study.store import SCORED
from pipeline.study.trials import BASELINE
from tests.commands import regsearch_here
from tests.conftest import enter
from tests.spaces import tiny_config, tiny_space
from tests.synthetic import run_study

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
TWO = ("finalists.count=2", "finalists.seeds=2", "study.trials=5")


class Page(HTMLParser):
    """A page's text, figures, and whatever it would load."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.figures: dict[str, dict[str, object]] = {}
        self.words: list[str] = []
        self._inside, self._figure = "", ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self._inside, self._figure = tag, given.get("data-for") or ""
        self.words.append(given.get("title") or "")  # a run's whole id
        links = (given.get(name) or "" for name in ("src", "href", "srcset", "data", "action"))
        self.loads += [link for link in links if link and not link.startswith("#")]

    def handle_endtag(self, tag: str) -> None:  # noqa: ARG002 - the parser's
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._figure and self._inside == "script":
            self.figures[self._figure] = json.loads(data)
        elif self._inside not in ("script", "style"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory, mlflow_template: Path) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("report")
    shutil.copy(mlflow_template, folder)
    with pytest.MonkeyPatch.context() as patch:
        enter(patch, folder)
        yield folder


@pytest.fixture(scope="module")
def outcome(workspace: Path) -> Outcome:
    options = Options(num_workers=1)
    return run_search(tiny_space(workspace, *TWO), options, LogView(Console(quiet=True)))


@pytest.fixture(scope="module")
def html(outcome: Outcome, workspace: Path) -> str:
    """Written without images at hand: none may be loaded."""
    assert outcome.verdict
    shutil.rmtree(workspace / "data", ignore_errors=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DigitsSettings, "read", lambda *_: pytest.fail("images read"))
        written = write_report("sqlite:///mlruns/optuna.db", "tiny")
    assert written.path == Path("tiny.report.html")
    assert written.not_logged == ""
    assert not (workspace / "data").exists()
    return written.path.read_text(encoding="utf-8")


def test_it_is_logged_on_the_studys_run(html: str) -> None:
    client = MlflowClient()
    experiment = client.get_experiment_by_name("tiny")
    assert experiment
    [run] = client.search_runs([experiment.experiment_id], "tags.`regsearch.kind` = 'study'")
    assert mlflow.artifacts.load_text(f"runs:/{run.info.run_id}/report.html") == html
    assert run.info.run_id in Page(html).text


def test_it_loads_nothing(html: str) -> None:
    page = Page(html)
    assert page.loads == []
    assert "default-src 'none'" in html
    assert html.count("* plotly.js v") == 1


def test_it_tells_the_verdict_and_the_runs_behind_it(html: str, outcome: Outcome) -> None:
    found, text = outcome.verdict, Page(html).text
    assert found
    assert found.winner.selection
    mean, half = found.winner.selection
    images = found.winner.scores.shape[1]
    assert f"{mean:.2%} ± {100 * half:.2f} accuracy on {images:,} selection images" in text
    client = MlflowClient()
    experiment = client.get_experiment_by_name("tiny")
    assert experiment
    runs = client.search_runs([experiment.experiment_id], "tags.`regsearch.kind` = 'trial'")
    assert len(runs) >= 5 + 2 * 3
    assert all(run.info.run_id in text for run in runs)
    for run_id in (run.info.run_id for run in runs):
        shown = rf'title="{run_id}">{run_id[:8]}<span>{run_id[8:]}</span></span>'
        assert shown in html
    assert "digest" in text
    assert "dropout" in text


def test_its_figures_have_the_trials_values(html: str, outcome: Outcome, workspace: Path) -> None:
    figures = Page(html).figures
    store = open_storage(f"sqlite:///{workspace}/mlruns/optuna.db")
    trials = Ledger(outcome.config, store, begin=False).trials()
    history = figures["plot-history"]["data"]
    shown = {
        x: y
        for trace in history  # type: ignore[attr-defined]
        if trace["mode"] == "markers"
        for x, y in zip(trace["x"], trace["y"], strict=True)
    }
    assert shown == {trial.number: trial.value for trial in trials}
    assert {"plot-intervals", "plot-curves-0", "plot-parallel", "plot-timeline-0"} <= figures.keys()
    assert {"plot-slice-0", "plot-slice-1"} <= figures.keys()
    store.close()


def test_every_section_is_there_in_order(html: str) -> None:
    names = re.findall(r'<section id="(\w+)">', html)
    assert names == [
        "verdict",
        "advice",
        "finalists",
        "champion",
        "ablation",
        "transfer",
        "search",
        "audit",
        "trials",
        "weights",
        "timeline",
        "readings",
    ]
    text = Page(html).text
    assert "regsearch ablate tiny" in text
    assert "regsearch evaluate models:/tiny-cnn@champion" in text


def test_readings_are_told_from_the_models_tags(html: str, workspace: Path) -> None:
    assert html
    assert regsearch_here("evaluate", "models:/tiny-cnn@champion", cwd=workspace).returncode == 0
    done = regsearch_here("report", "tiny", "--out", "again.html", cwd=workspace)
    assert done.stdout == "written to again.html\n"
    assert done.stderr == ""
    section = (workspace / "again.html").read_text().partition('<section id="readings">')[2]
    assert "champion" in section
    assert re.search(r"\d\d\.\d\d%", section)


def browse(page: Path, *options: str) -> subprocess.CompletedProcess[str]:
    flags = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking")
    profile = page.parent / "browser"
    return subprocess.run(
        [str(CHROMIUM), *flags, "--no-first-run", f"--user-data-dir={profile}", *options,
         "--virtual-time-budget=8000", "--dump-dom", page.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_a_browser_draws_every_figure_without_a_complaint(html: str, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text(html)
    done = browse(tmp_path / "report.html", "--enable-logging=stderr", "--v=0")
    assert "CONSOLE" not in done.stderr
    assert len(re.findall(r'class="plot js-plotly-plot"', done.stdout)) == len(Page(html).figures)


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_a_phone_need_not_scroll_sideways(html: str, tmp_path: Path) -> None:
    """In a frame of 390 pixels, since a browser's window has 500 at least."""
    probe = """<script>addEventListener("load", () => setTimeout(() => parent.postMessage(
      [innerWidth, document.documentElement.scrollWidth, ...plots.map(
        (plot) => plot.querySelector(".main-svg").clientWidth - plot.clientWidth)], "*"), 900));
      </script></body>"""
    (tmp_path / "inner.html").write_text(html.replace("</body>", probe))
    frame = """<iframe src="inner.html" style="border:0;width:390px;height:844px"></iframe>
      <script>addEventListener("message", (e) => document.body.dataset.found = e.data)</script>"""
    (tmp_path / "outer.html").write_text(f"<!doctype html><body>{frame}</body>")
    done = browse(tmp_path / "outer.html")
    found = re.search(r'data-found="([-\d,]+)"', done.stdout)
    assert found, done.stdout[-500:]
    width, needed, *excess = map(int, found[1].split(","))
    assert width == 390
    assert needed <= 390
    assert max(excess) <= 0


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
@pytest.mark.parametrize(("width", "fit"), [(1280, True), (390, False)])
def test_tables_have_room_on_a_desktop_and_the_shadow_tells_a_phone_of_more(
    html: str, tmp_path: Path, width: int, fit: bool
) -> None:
    probe = """<script>addEventListener("load", () => setTimeout(() => parent.postMessage(
      [...document.querySelectorAll("#trials .wide")].map((one) => [
        one.scrollWidth - one.clientWidth,
        getComputedStyle(one).backgroundAttachment.split(", ").join("-"),
        [...one.querySelectorAll(".id")].every((id) => id.innerText.trim().length === 8)
      ].join("/")), "*"), 900));</script></body>"""
    (tmp_path / "inner.html").write_text(html.replace("</body>", probe))
    frame = f"""<iframe src="inner.html" style="border:0;width:{width}px;height:844px"></iframe>
      <script>addEventListener("message", (e) => document.body.dataset.found = e.data)</script>"""
    (tmp_path / "outer.html").write_text(f"<!doctype html><body>{frame}</body>")
    found = re.search(r'data-found="([^"]+)"', browse(tmp_path / "outer.html").stdout)
    assert found
    hidden, attachment, short = found[1].split(",")[0].split("/")
    assert (int(hidden) == 0) is fit
    assert attachment == "local-local-scroll-scroll"
    assert short == "true"


# What is missing is said, with the command that makes it.


@pytest.fixture
def ledger(workspace_of_test: Path) -> Iterator[Ledger]:
    store = open_storage(f"sqlite:///{workspace_of_test}/optuna.db")
    found = Ledger(tiny_config(workspace_of_test, *TWO), store)
    remember_settings(found)
    yield found
    store.close()


@pytest.fixture
def workspace_of_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder without any MLflow."""
    enter(monkeypatch, tmp_path)
    return tmp_path


def told(ledger: Ledger) -> str:
    return Page(render(gather(ledger))).text


def test_a_study_that_has_just_begun(ledger: Ledger) -> None:
    text = told(ledger)
    assert "no trial of this study is complete" in text
    assert "0 of 5 trials are finished" in text
    assert "There is nothing to advise yet" in text
    assert "Nothing has been trained" in text


def test_a_study_that_still_runs(ledger: Ledger) -> None:
    claim = ledger.claim()
    assert claim
    ledger.complete(claim, 0.8)
    assert ledger.claim()
    text = told(ledger)
    assert "1 of 5 trials are finished" in text
    assert "The search likes unregularized best: 80.00%" in text
    assert "The finalists are not trained yet: regsearch run SPACE.yaml" in text
    assert "running" in text


def test_failed_trials_alone_and_their_reasons_are_escaped(ledger: Ledger) -> None:
    for _ in range(2):
        claim = ledger.claim()
        assert claim
        ledger.fail(claim, "<script>alert('x')</script> & more\nand a traceback")
    html = render(gather(ledger))
    assert "<script>alert" not in html
    assert "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt; &amp; more" in html
    assert "All trials so far have failed" in Page(html).text


def test_finalists_that_are_not_wanted(workspace_of_test: Path) -> None:
    text = told(run_study(workspace_of_test))
    assert "finalists.count is 0: regsearch run SPACE.yaml --set finalists.count=5" in text
    assert "flatters it" in text
    assert "Weights are measured on the finalists' trainings" in text


def searched(ledger: Ledger) -> FollowUp:
    """The search is over, and its finalists are queued."""
    for value in (0.5, 0.6, 0.9, 0.8, 0.7):
        claim = ledger.claim()
        assert claim
        scored = {"validation/accuracy": value, "train/clean_accuracy": 0.95}
        ledger.complete(claim, value, {SCORED: {"epoch": 2, **scored}})
    followup = FollowUp(ledger.config, ledger.store, KIND)
    followup.add(points(ledger))
    return followup


def test_finalists_that_are_being_trained(ledger: Ledger) -> None:
    followup = searched(ledger)
    claim = followup.claim()
    assert claim
    followup.complete(claim, 0.5)
    text = told(ledger)
    assert "1 of 8 trainings of the finalists are done" in text
    assert "trial 2 best: 90.00%" in text


def test_a_finalist_that_is_missing(ledger: Ledger) -> None:
    """Also: hand-made answers, so that the verdict's words are known."""
    followup = searched(ledger)
    while claim := followup.claim():
        if claim.name == "trial 3, seed 2":
            followup.fail(claim, "a reason")
            continue
        right = {"trial 2": 40, "recipe": 20, "unregularized": 0}.get(claim.name[:-8], 30)
        correct = np.arange(40) < right
        answers = Answers(correct, correct.astype(np.float32))
        followup.complete(claim, 0.5, {ANSWERS: answers.to_json()})
    evidence = gather(ledger)
    words = list(verdict_words(evidence))
    assert words[0] == (
        "Trial 2 wins: 100.00% ± 0.00 accuracy on 40 selection images, over 2 fresh seeds."
    )
    assert words[1] == (
        "It has the best of 3 means, which flatters its own; the intervals of its gains allow for "
        "that."
    )
    assert words[2] == (
        "Its gain over the unregularized baseline: +100.00 ± 0.00 points, more than chance allows."
    )
    assert words[3].startswith("Its gain over the recipe baseline: +50.00 ± ")
    assert words[4] == "It can be told apart from all 2 other finalists."
    text = Page(render(evidence)).text
    assert "trial 3 is no finalist: 1 of its 2 trainings are missing" in text
    assert "Use the settings of trial 2" in text


def test_what_is_no_better_than_no_regularization_is_not_advised(ledger: Ledger) -> None:
    """The winner leads by 2 of 100 images, which is no more than chance allows."""
    rows = {"trial 2": 52, "unregularized": 50}
    trials = {name: optuna.create_trial(value=0.5, user_attrs={BASELINE: name}) for name in rows}
    trials["trial 2"] = optuna.create_trial(value=0.5)
    finalists = []
    for name, right in rows.items():
        correct = np.arange(100) < right
        answers = Answers(correct, correct.astype(np.float32))
        finalists.append(Finalist(name, trials[name], (), (answers, answers), "accuracy"))
    verdict = Verdict(tuple(finalists), "accuracy", True)
    said = list(advice(replace(gather(ledger), verdict=verdict)))
    assert said[0].startswith(
        "Nothing was found that is better than no regularization beyond chance: the winner leads "
        "it by +2.00 ± "
    )
    assert "Its settings, should you want them: trial 2: " in said[0]
    assert not any("Use the settings" in sentence for sentence in said)


def test_what_an_ablation_measured_is_not_said_to_have_no_effect(ledger: Ledger) -> None:
    evidence = gather(ledger)
    config = ledger.config
    paths = ("regularization.dropout", "training.optimizer.weight_decay")
    findings = [BoundsFinding(p, "does_not_matter", "no effect", fixed=0.25) for p in paths]
    bounds = BoundsReport(config, 40, {}, findings, NextSearch(config))
    effects = (Effect(paths[0], 0.2, (0.02, 0.01), None), Effect(paths[1], 0.1, (0.0, 0.01), None))
    found = Ablation("trial 3", "accuracy", 3, 100, None, effects)
    said = list(advice(replace(evidence, ablation=found, bounds=bounds)))
    assert "weight_decay: no effect → fixed at 0.25." in said
    assert not any(sentence.startswith("dropout: ") for sentence in said)


def test_one_seed_is_too_few_to_advise_by(ledger: Ledger) -> None:
    effects = (Effect("regularization.dropout", 0.2, (0.02, 0.01), None),)
    found = Ablation("trial 3", "accuracy", 1, 100, None, effects)
    [said] = advice(replace(gather(ledger), ablation=found))
    assert said.startswith("One seed is too few to keep or to leave out a regularizer by")


def test_advice_from_an_ablation(ledger: Ledger) -> None:
    """What clearly helps is kept, what clearly harms goes, and the rest is left open."""
    effects = (
        Effect("regularization.dropout", 0.2, (0.02, 0.01), None),
        Effect("training.optimizer.weight_decay", 0.1, (-0.03, 0.01), None),
        Effect("regularization.l2", 0.1, (0.01, 0.02), None),
    )
    found = Ablation("trial 3", "accuracy", 3, 100, None, effects)
    said = list(advice(replace(gather(ledger), ablation=found)))
    assert said == [
        "Keep dropout 0.2: without it trial 3 loses 2.00 ± 1.00.",
        "Leave weight_decay 0.1 out: without it trial 3 gains 3.00 ± 1.00.",
        "Whether l2 helps trial 3 can't be told on these images.",
    ]


def test_fewer_trials_than_finalists(workspace_of_test: Path) -> None:
    settings = ("finalists.count=9", "finalists.seeds=1")
    config = tiny_config(workspace_of_test, *settings)
    store = open_storage(f"sqlite:///{workspace_of_test}/optuna.db")
    ledger = Ledger(config, store)
    while claim := ledger.claim():
        ledger.complete(claim, 0.5)
    followup = FollowUp(config, store, KIND)
    followup.add(points(ledger))
    answers = {ANSWERS: Answers(np.ones(4, np.bool_), np.ones(4, np.float32)).to_json()}
    while claim := followup.claim():
        followup.complete(claim, 0.5, answers)
    assert "9 finalists were asked for; the study has 4 complete trials" in told(ledger)
    store.close()


def test_without_mlflow_the_file_is_written_and_a_line_says_so(workspace_of_test: Path) -> None:
    run_study(workspace_of_test)
    written = write_report(f"sqlite:///{workspace_of_test}/optuna.db", "tiny", Path("x.html"))
    assert "there is no MLflow store" in written.not_logged
    text = Page(Path("x.html").read_text()).text
    assert "MLflow could not be asked" in text
    assert not (workspace_of_test / "mlflow.db").exists()


def test_mistakes_are_told_in_one_message(workspace_of_test: Path) -> None:
    run_study(workspace_of_test)
    storage = f"sqlite:///{workspace_of_test}/optuna.db"
    with pytest.raises(UserError, match="no study 'none'"):
        write_report(storage, "none")
    with pytest.raises(UserError, match="can't be written"):
        write_report(storage, "tiny", Path("nowhere/x.html"))
    done = regsearch_here("report", "none", "--storage", storage, cwd=workspace_of_test)
    assert done.returncode == 2
    assert "it has tiny" in done.stderr


def test_every_section_has_a_sentence_or_more(ledger: Ledger) -> None:
    evidence = gather(ledger)
    sections = [section for make in SECTIONS if (section := make(evidence))]
    assert len(sections) == len(SECTIONS) - 1  # a search by one metric has no trade-off
    for section in sections:
        assert section.lead or section.missing or section.points, section.name
