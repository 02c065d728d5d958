"""Constraints: which trials may win, what the samplers are told, and what people are."""

from __future__ import annotations

import io
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState
from rich.console import Console

from pipeline.coordinator import standing
from pipeline.errors import UserError
from pipeline.outcome import Outcome
from pipeline.report.summary import summary
from pipeline.study.constraints import constraint_tags, violations
from pipeline.study.ledger import Ledger
from pipeline.study.store import SCORED
from tests.spaces import TINY, tiny_config
from tests.test_ledger import claimed, open_ledger

GAP, LOSS = "generalization_gap", "validation/loss"
BOUNDED = TINY.replace("trials: 4", f"trials: 4\n  constraints: {{{GAP}: 0.1}}")
RULE = "pruner: {kind: threshold, lower: 0.9, warmup_epochs: 0}"


def scored(gap: float, **others: float) -> dict[str, dict[str, float]]:
    return {SCORED: {"epoch": 2, GAP: gap, **others}}


def with_gaps(folder: Path, *ended: tuple[float, float], trials: int = 9) -> Ledger:
    """A study of complete trials with these values and gaps; its bound on the gap is 0.1."""
    ledger = open_ledger(folder, f"study.trials={trials}", text=BOUNDED)
    for value, gap in ended:
        ledger.complete(claimed(ledger), value, scored(gap))
    return ledger


def test_a_bound_is_the_highest_loss_and_the_lowest_accuracy() -> None:
    bounds = {"validation/accuracy": 0.75, "validation/loss": 0.5, "validation/ece": 0.25}
    metrics = {"validation/accuracy": 0.5, "validation/loss": 0.375, "validation/ece": 0.375}
    assert violations(bounds, metrics) == {
        "validation/accuracy": 0.25,
        "validation/loss": -0.125,
        "validation/ece": 0.125,
    }


def test_the_best_is_the_best_of_those_that_keep_the_bound_which_may_be_reached(
    tmp_path: Path,
) -> None:
    ledger = with_gaps(tmp_path, (0.9, 0.2), (0.7, 0.1), (0.8, 0.05), (0.95, 0.11))
    assert [trial.number for trial in ledger.ranked()] == [2, 1]
    assert standing(ledger).best == "80.00% (trial 2)"
    needed = ledger.needs_weights()
    assert [number for number in range(4) if needed(number)] == [0, 1, 2]  # 0 is a baseline


def test_optuna_has_the_violation_of_every_finished_trial(tmp_path: Path) -> None:
    ledger = with_gaps(tmp_path, (0.9, 0.25))
    pruned, failed = claimed(ledger), claimed(ledger)
    ledger.report(pruned, 1, 0.1)
    ledger.prune(pruned, scored(0.0))
    ledger.fail(failed, "a reason")
    kept = [
        trial.constraints
        for trial in optuna.load_study(study_name="tiny", storage=ledger.store).trials
    ]
    assert kept == [{GAP: pytest.approx(0.15)}, {GAP: pytest.approx(-0.1)}, {}]


def test_the_pruner_still_stops_trials(tmp_path: Path) -> None:
    ledger = open_ledger(
        tmp_path, "study.audit_fraction=0.0", text=BOUNDED.replace("pruner: {kind: none}", RULE)
    )
    third = [claimed(ledger) for _ in range(3)][-1]
    assert ledger.report(third, 1, 0.1) is True


def test_where_no_trial_keeps_them_the_summary_tells_the_nearest(tmp_path: Path) -> None:
    ledger = with_gaps(tmp_path, (0.9, 0.3), (0.7, 0.125), (0.8, 0.2))
    assert ledger.best() is None
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(summary(Outcome(ledger.config, standing(ledger))))
    told = console.export_text()
    assert "no trial keeps the constraints; the nearest, trial 1, misses" in told
    assert f"{GAP} by 0.025, so there is no champion" in told
    assert "no trial is complete" not in told


def test_the_nearest_misses_least_in_the_sum(tmp_path: Path) -> None:
    text = BOUNDED.replace(f"{GAP}: 0.1", f"{GAP}: 0.1, {LOSS}: 0.5")
    ledger = open_ledger(tmp_path, text=text)
    ledger.complete(claimed(ledger), 0.9, scored(0.1, **{LOSS: 0.875}))
    ledger.complete(claimed(ledger), 0.9, scored(0.225, **{LOSS: 0.625}))
    assert ledger.nearest_miss().endswith(f"trial 1, misses {GAP} by 0.125 and {LOSS} by 0.125")


def test_mlflow_is_told_whether_a_trial_keeps_them(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, text=BOUNDED)
    assert constraint_tags(config, {GAP: 0.1}) == {"regsearch.feasible": "true"}
    assert constraint_tags(config, {GAP: 0.2}) == {"regsearch.feasible": "false"}
    assert constraint_tags(tiny_config(tmp_path), {GAP: 0.2}) == {}


def test_the_sampler_learns_from_them(tmp_path: Path) -> None:
    """The value rises with dropout, and above 0.2 the gap is too large."""
    drawn = {}
    for bound in (0.2, 1.0):
        text = BOUNDED.replace(f"{GAP}: 0.1", f"{GAP}: {bound}").replace("tiny\n", f"t{bound}\n")
        ledger = open_ledger(tmp_path, "study.trials=99", text=text)
        values = []
        for _ in range(40):
            claim = claimed(ledger)
            dropout = float(claim.trial.params["regularization.dropout"])
            values.append(dropout)
            ledger.complete(claim, dropout, scored(dropout))
        drawn[bound] = sum(values[-20:]) / 20
    assert drawn[0.2] < 0.3 < 0.5 < drawn[1.0]


@pytest.mark.parametrize("metric", ["validation/ece", "validation/brier", "generalization_gap"])
def test_what_is_measured_each_epoch_can_be_bounded(tmp_path: Path, metric: str) -> None:
    text = BOUNDED.replace(GAP, metric)
    assert tiny_config(tmp_path, text=text).study.constraints == {metric: 0.1}


def test_an_unknown_metric_is_refused_with_the_list(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        tiny_config(tmp_path, text=BOUNDED.replace(GAP, "validation/eec"))
    told = str(error.value)
    assert "`validation/eec` is not a metric that can be constrained" in told
    assert "validation/brier, train/loss" in told
    assert "did you mean `validation/ece`?" in told


def test_other_bounds_need_extend_and_judge_every_finished_trial_anew(tmp_path: Path) -> None:
    """Pruned ones too: the samplers learn from them."""
    ledger = with_gaps(tmp_path, (0.9, 0.2), (0.7, 0.05))
    pruned = claimed(ledger)
    ledger.report(pruned, 1, 0.1)
    ledger.prune(pruned, scored(0.5))
    wider = BOUNDED.replace(f"{GAP}: 0.1", f"{GAP}: 0.25")
    with pytest.raises(UserError, match="add --extend"):
        open_ledger(tmp_path, "study.trials=9", text=wider)
    extended = open_ledger(tmp_path, "study.trials=9", text=wider, extend=True)
    assert [trial.number for trial in extended.ranked()] == [0, 1]
    assert [trial.constraints[GAP] for trial in extended.trials(TrialState.PRUNED)] == [0.25]
    assert extended.extended == ["study.constraints.generalization_gap: 0.1 -> 0.25"]
    without = open_ledger(tmp_path, "study.trials=9", extend=True)
    assert [trial.constraints for trial in without.trials()] == [{}, {}, {}]


def test_a_bound_on_what_older_trials_did_not_measure_is_refused(tmp_path: Path) -> None:
    open_ledger(tmp_path).complete(claimed(open_ledger(tmp_path)), 0.5)
    with pytest.raises(UserError, match=f"trial 0 does not say its {GAP}"):
        open_ledger(tmp_path, text=BOUNDED, extend=True)
