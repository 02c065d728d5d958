"""A search by several metrics: what the store, the summary, MLflow, the report and the doctors make
of it."""

from __future__ import annotations

import io
from contextlib import closing
from pathlib import Path

import mlflow
import optuna
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from optuna.trial import TrialState
from rich.console import Console

from pipeline.analysis.bounds import examine_bounds
from pipeline.analysis.views import Views
from pipeline.config import RunConfig
from pipeline.coordinator import standing
from pipeline.decision import choose
from pipeline.errors import UserError
from pipeline.events import TrialScored
from pipeline.journal import JournalReader, JournalWriter
from pipeline.outcome import Outcome
from pipeline.progress import LogView
from pipeline.report.bounds import bounds_report
from pipeline.report.evidence import gather
from pipeline.report.html import render
from pipeline.report.summary import summary
from pipeline.retold import retell
from pipeline.search import Options, run_search
from pipeline.status import open_ledgers
from pipeline.study.ledger import Ledger
from pipeline.study.record import remember_settings
from pipeline.study.store import SCORED
from pipeline.study.warm_start import carry, find_warm_start
from pipeline.tradeoff import trade_off
from tests.spaces import TINY, tiny_config, tiny_space
from tests.test_ledger import claimed, open_ledger

ACCURACY, ECE, GAP = "validation/accuracy", "validation/ece", "generalization_gap"
TWO = TINY.replace("  pruner: {kind: none}\n", f"  metrics: [{ACCURACY}, {ECE}]\n")
DROPOUT, DECAY = "regularization.dropout", "training.optimizer.weight_decay"


def scored(accuracy: float, ece: float) -> dict[str, dict[str, float]]:
    return {SCORED: {"epoch": 2, ACCURACY: accuracy, ECE: ece, GAP: 0.0}}


def with_scores(folder: Path, *ended: tuple[float, float], text: str = TWO) -> Ledger:
    """A study of complete trials with these accuracies and calibration errors."""
    ledger = open_ledger(folder, "study.trials=99", text=text)
    for accuracy, ece in ended:
        ledger.complete(claimed(ledger), accuracy, scored(accuracy, ece))
    return ledger


def printed(what: object) -> str:
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(what)
    return console.export_text()


def test_the_first_metric_is_the_metric_and_nothing_is_pruned(tmp_path: Path) -> None:
    study = tiny_config(tmp_path, text=TWO.replace(ACCURACY, "validation/loss")).study
    assert (study.metric, study.pruner.kind) == ("validation/loss", "none")
    assert study.objectives == ("validation/loss", ECE)


def test_settings_that_a_study_keeps_are_read_again(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, text=TWO)
    assert RunConfig.model_validate(config.resolved()) == config.with_overrides({})
    assert config.with_overrides({DROPOUT: 0.25}).study == config.study


def test_optuna_has_all_metrics_each_with_its_direction(tmp_path: Path) -> None:
    ledger = with_scores(tmp_path, (0.5, 0.25))
    study = optuna.load_study(study_name="tiny", storage=ledger.store)
    assert [d.name for d in study.directions] == ["MAXIMIZE", "MINIMIZE"]
    assert study.trials[0].values == [0.5, 0.25]
    assert [trial.value for trial in ledger.trials(TrialState.COMPLETE)] == [0.5]


def test_the_front_is_found_and_few_finalists_show_all_of_it(tmp_path: Path) -> None:
    """Trials 0 and 1 are the baselines."""
    ledger = with_scores(
        tmp_path, (0.1, 0.5), (0.2, 0.5), (0.9, 0.4), (0.89, 0.39), (0.7, 0.1), (0.6, 0.2)
    )
    assert [trial.number for trial in ledger.front()] == [2, 3, 4]
    # Behind the front comes the front of the others.
    assert [trial.number for trial in ledger.contenders(9)] == [2, 4, 3, 5, 1, 0]
    assert [trial.number for trial in ledger.ranked()] == [2, 3, 4, 5, 1, 0]
    assert [trial.number for trial in ledger.contenders(2)] == [2, 4]
    text = TWO.replace("count: 0", "count: 2")
    assert [t.number for t in choose(open_ledger(tmp_path, "study.trials=99", text=text))] == [
        2,
        4,
        0,
        1,
    ]
    assert standing(ledger).best == "90.00% (trial 2); 3 on the front"


def test_of_trials_that_are_equal_by_the_first_metric_the_next_decides(tmp_path: Path) -> None:
    ledger = with_scores(tmp_path, (0.9, 0.4), (0.9, 0.3))
    best = ledger.best()
    assert best is not None
    assert best.number == 1


def test_a_trial_that_breaks_a_constraint_is_on_no_front(tmp_path: Path) -> None:
    bounded = TWO.replace("trials: 4", f"trials: 4\n  constraints: {{{ACCURACY}: 0.5}}")
    ledger = with_scores(tmp_path, (0.9, 0.4), (0.4, 0.1), (0.6, 0.2), text=bounded)
    assert [trial.number for trial in ledger.front()] == [0, 2]
    stricter = bounded.replace(f"{ACCURACY}: 0.5", f"{ACCURACY}: 0.7")
    extended = open_ledger(tmp_path, "study.trials=99", text=stricter, extend=True)
    assert [trial.number for trial in extended.front()] == [0]


def test_a_trial_as_good_as_the_fifth_keeps_its_weights_until_it_is_known_to_be_worse(
    tmp_path: Path,
) -> None:
    """Equal by the first metric, it is the best by the second."""
    same = [(0.9, 0.4)] * 5
    ledger = with_scores(tmp_path, (0.1, 0.5), (0.2, 0.5), *same)
    claim = claimed(ledger)
    assert ledger.keeps_weights(claim, 0.9)
    assert not ledger.keeps_weights(claim, 0.89)
    ledger.complete(claim, 0.9, scored(0.9, 0.1))
    best = ledger.best()
    assert best is not None
    assert best.number == claim.number
    assert ledger.needs_weights()(claim.number)


def test_other_metrics_are_another_study(tmp_path: Path) -> None:
    with_scores(tmp_path, (0.9, 0.4))
    three = TWO.replace(f"{ECE}]", f"{ECE}, {GAP}]")
    with pytest.raises(UserError, match=r"study\.metrics") as error:
        open_ledger(tmp_path, text=three, extend=True)
    assert "give the study another name" in str(error.value)


def sampled_by(folder: Path, kind: str, num_trials: int) -> tuple[list[float], list[float]]:
    """Dropouts and decays of so many trials. Accuracy rises with dropout, and so does the
    calibration error: every dropout is on the front, while decay harms both."""
    start = "" if kind in ("random", "qmc") else ", startup_trials: 8"
    text = TWO.replace("trials: 4\n", f"trials: 4\n  sampler: {{kind: {kind}{start}}}\n")
    text = text.replace("low: 1e-5, high: 1e-1, log: true", "low: 0.0, high: 0.1")
    ledger = open_ledger(folder, "study.trials=99", text=text)
    for _ in range(2):
        ledger.complete(claimed(ledger), 0.0, scored(0.0, 1.0))
    dropouts, decays = [], []
    for _ in range(num_trials):
        claim = claimed(ledger)
        dropout, decay = float(claim.trial.params[DROPOUT]), float(claim.trial.params[DECAY])
        harm = 5 * decay
        ledger.complete(claim, dropout - harm, scored(dropout - harm, dropout + harm))
        dropouts.append(dropout)
        decays.append(decay)
    return dropouts, decays


@pytest.mark.parametrize(("kind", "learns"), [("tpe", True), ("random", False), ("qmc", False)])
def test_a_sampler_that_learns_seeks_both_ends(tmp_path: Path, kind: str, learns: bool) -> None:
    dropouts, decays = sampled_by(tmp_path, kind, 30)
    assert min(dropouts[10:]) < 0.2
    assert max(dropouts[10:]) > 0.5
    assert (sum(decays[20:]) / 10 < 0.035) is learns


def test_a_gaussian_process_takes_several_metrics(tmp_path: Path) -> None:
    """With two it fits more than one, which takes seconds: a few trials after its start will do."""
    _, decays = sampled_by(tmp_path, "gp", 11)
    assert all(0 <= decay <= 0.1 for decay in decays)


def test_a_study_by_one_metric_warms_up_one_by_several(tmp_path: Path) -> None:
    old = open_ledger(tmp_path, "study.trials=99", text=TINY)
    remember_settings(old)
    old.require_same_data("abc")
    for accuracy in (0.1, 0.2, 0.3, 0.4):
        old.complete(claimed(old), accuracy, scored(accuracy, accuracy / 2))
    text = TWO.replace("name: tiny\n", "name: new\n  warm_start: {study: tiny}\n")
    config = tiny_config(tmp_path, text=text)
    warm = find_warm_start(config, old.store, "abc")
    new = Ledger(config, old.store)
    assert carry(new, warm).startswith("begun with 2 of 2 finished trials")
    kept = optuna.load_study(study_name="new", storage=old.store).get_trials(
        states=(TrialState.COMPLETE,)
    )
    assert [trial.values for trial in kept] == [[0.3, 0.15], [0.4, 0.2]]
    back = TINY.replace("name: tiny\n", "name: back\n  warm_start: {study: new}\n")
    remember_settings(new)
    new.require_same_data("abc")
    carried = find_warm_start(tiny_config(tmp_path, text=back), old.store, "abc")
    assert carried is not None
    assert [trial.values for trial in carried.trials] == [[0.3], [0.4]]


def test_a_warm_start_needs_all_metrics_of_each_trial(tmp_path: Path) -> None:
    old = open_ledger(tmp_path, "study.trials=99", text=TINY)
    remember_settings(old)
    old.require_same_data("abc")
    for accuracy in (0.1, 0.2, 0.3):
        old.complete(claimed(old), accuracy, {SCORED: {"epoch": 1, ACCURACY: accuracy}})
    text = TWO.replace("name: tiny\n", "name: new\n  warm_start: {study: tiny}\n")
    with pytest.raises(UserError, match=f"trial 2 does not say its {ECE}"):
        find_warm_start(tiny_config(tmp_path, text=text), old.store, "abc")


def drawn(folder: Path, num_trials: int = 60) -> Ledger:
    """Dropout drives the accuracy alone, with a ruin above 0.5 that calibrates best; decay drives
    the calibration error alone; label smoothing does nothing."""
    text = TWO.replace("trials: 4\n", "trials: 4\n  sampler: {kind: random}\n")
    text = text.replace(
        "search:\n",
        "search:\n  regularization.label_smoothing: {type: float, low: 0.0, high: 0.3}\n",
    ).replace("low: 1e-5, high: 1e-1, log: true", "low: 0.0, high: 0.1")
    ledger = open_ledger(folder, "study.trials=99", text=text)
    for _ in range(2):
        ledger.complete(claimed(ledger), 0.5, scored(0.5, 0.5))
    for _ in range(num_trials):
        claim = claimed(ledger)
        dropout, decay = float(claim.trial.params[DROPOUT]), float(claim.trial.params[DECAY])
        accuracy = 0.8 if dropout < 0.5 else 0.1
        ece = (0.3 if dropout < 0.5 else 0.1) + decay
        ledger.complete(claim, accuracy, scored(accuracy + dropout / 100, ece))
    return ledger


def test_a_setting_matters_if_it_does_for_one_metric_and_nothing_is_cut_that_is_good_by_one(
    tmp_path: Path,
) -> None:
    ledger = drawn(tmp_path)
    report = examine_bounds(ledger.config, ledger.trials())
    matters = {
        metric: {one.path: one.matters for one in found}
        for metric, found in report.importances.items()
    }
    assert matters[ACCURACY][DROPOUT] is True
    assert matters[ACCURACY][DECAY] is False
    assert matters[ECE][DECAY] is True
    told = {(finding.path, finding.kind) for finding in report.findings}
    assert ("regularization.label_smoothing", "does_not_matter") in told
    assert (DROPOUT, "ruinous_high") not in told
    assert (DECAY, "does_not_matter") not in told
    words = printed(bounds_report(report, None if not report.is_changed else tmp_path / "x"))
    assert "accuracy no (p" in words
    assert "ece yes (p" in words


def test_the_same_ruin_is_cut_off_where_one_metric_decides(tmp_path: Path) -> None:
    """So that the test above can fail."""
    trials = [t for t in drawn(tmp_path).trials(TrialState.COMPLETE) if t.number > 1]
    assert "high" in Views(trials, [ACCURACY]).ruinous(DROPOUT)
    assert "high" not in Views(trials, [ACCURACY, ECE]).ruinous(DROPOUT)


@pytest.fixture(scope="module")
def finished(lasting_workspace: Path) -> Outcome:
    """A study of two metrics with its final, and then two trials more."""
    text = TWO.replace("finalists: {count: 0}", "finalists: {count: 2, seeds: 2}")
    view = LogView(Console(file=io.StringIO()))
    options = Options(num_workers=1)
    run_search(tiny_space(lasting_workspace, "study.trials=5", text=text), options, view)
    return run_search(tiny_space(lasting_workspace, "study.trials=8", text=text), options, view)


def runs(kind: str) -> list[Run]:
    client = MlflowClient()
    [experiment] = client.search_experiments(filter_string="name = 'tiny'")
    tag = f"tags.`regsearch.kind` = '{kind}'"
    return list(client.search_runs([experiment.experiment_id], tag))


@pytest.mark.usefixtures("finished")
def test_mlflow_shows_the_front_as_it_is_now() -> None:
    [ledger] = open_ledgers("sqlite:///mlruns/optuna.db", "tiny")
    front = {trial.number for trial in ledger.front()}
    tagged = {
        int(run.data.tags["regsearch.trial"])
        for run in runs("trial")
        if run.data.tags.get("regsearch.pareto") == "front"
    }
    assert tagged == front
    [study] = runs("study")
    assert study.data.metrics["pareto/front_trials"] == len(front)
    assert study.data.tags["regsearch.metric"] == f"{ACCURACY}, {ECE}"


def test_a_trial_that_leaves_the_front_is_told_once(tmp_path: Path) -> None:
    ledger = with_scores(tmp_path, (0.1, 0.5), (0.2, 0.5), (0.9, 0.4), (0.7, 0.1))

    def told() -> list[tuple[int, str]]:
        with closing(JournalWriter(tmp_path / "journal")) as journal:
            retell(ledger, journal)
        events = reader.read()
        return [(e.trial, e.tags["regsearch.pareto"]) for e in events if isinstance(e, TrialScored)]

    reader = JournalReader(tmp_path / "journal")
    assert told() == [(2, "front"), (3, "front")]
    assert told() == []
    ledger.complete(claimed(ledger), 0.8, scored(0.8, 0.1))
    assert told() == [(3, "dominated"), (4, "front")]


def test_the_summary_tells_both_metrics_of_each_finalist_on_both_splits(finished: Outcome) -> None:
    [ledger] = open_ledgers("sqlite:///mlruns/optuna.db", "tiny")
    found = finished.crowned.trade_off
    assert found is not None
    assert finished.verdict is not None
    assert [offer.name for offer in found.offers] == [f.name for f in finished.verdict.finalists]
    first = found.offers[0]
    training = [t.user_attrs[SCORED] for t in finished.verdict.winner.trainings]
    assert first.search == (first.trial.value, first.trial.user_attrs[SCORED][ECE])
    ece = [scores["selection/ece"] for scores in training]
    assert (first.selection[1].low, first.selection[1].high) == (min(ece), max(ece))
    assert first.selection[1].mean == pytest.approx(sum(ece) / 2)
    assert first.selection[0].mean == pytest.approx(finished.verdict.winner.selection[0])  # type: ignore[index]
    means = [tuple(measured.mean for measured in offer.selection) for offer in found.offers]
    for offer, (accuracy, ece_mean) in zip(found.offers, means, strict=True):
        beaten = any(
            a >= accuracy and e <= ece_mean and (a, e) != (accuracy, ece_mean) for a, e in means
        )
        assert offer.stays is not beaten
    told = printed(summary(finished))
    assert "on selection: ece" in told
    assert f"The front: {len(ledger.front())} trial" in told


def test_who_holds_out_on_selection_is_registered_too(finished: Outcome) -> None:
    assert finished.crowned.trade_off is not None
    aliases = {entry.alias: entry.problem for entry in finished.registered}
    expected = {name.replace(" ", "-") for name in finished.crowned.trade_off.alternatives}
    assert expected <= aliases.keys()
    assert set(aliases.values()) == {""}
    for alias in aliases:
        mlflow.pyfunc.load_model(f"models:/tiny-cnn@{alias}")


@pytest.mark.usefixtures("finished")
def test_the_report_shows_the_trade_off() -> None:
    [ledger] = open_ledgers("sqlite:///mlruns/optuna.db", "tiny")
    page = render(gather(ledger))
    assert "The trade-off" in page
    assert f"{ACCURACY} against {ECE}" in page
    assert "Finalists by each metric" in page


def test_a_gap_on_selection_is_the_clean_training_accuracy_less_that_on_selection(
    finished: Outcome,
) -> None:
    [ledger] = open_ledgers("sqlite:///mlruns/optuna.db", "tiny")
    study = ledger.config.study.model_copy(update={"metrics": [ACCURACY, GAP]})
    ledger.config = ledger.config.model_copy(update={"study": study})
    found = trade_off(ledger, finished.verdict)
    assert found is not None
    assert finished.verdict is not None
    scores = [t.user_attrs[SCORED] for t in finished.verdict.winner.trainings]
    gaps = [s["train/clean_accuracy"] - s["selection/accuracy"] for s in scores]
    assert found.offers[0].selection[1].mean == pytest.approx(sum(gaps) / 2)


def test_before_the_final_some_of_the_front_is_offered(tmp_path: Path) -> None:
    ledger = with_scores(tmp_path, (0.1, 0.5), (0.9, 0.4), (0.7, 0.1))
    found = trade_off(ledger, None)
    assert found is not None
    assert [(offer.name, offer.search) for offer in found.offers] == [
        ("recipe", (0.9, 0.4)),
        ("trial 2", (0.7, 0.1)),
    ]
    assert found.alternatives == []
    assert trade_off(open_ledger(tmp_path, text=TINY.replace("tiny\n", "one\n")), None) is None
