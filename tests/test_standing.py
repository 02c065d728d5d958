"""Where a study stands: what pruning saved, in epochs."""

from __future__ import annotations

import io
from pathlib import Path

import optuna
from optuna.trial import TrialState
from rich.console import Console

from pipeline.coordinator import standing, study_metrics
from pipeline.outcome import Outcome
from pipeline.report.summary import summary
from tests.test_ledger import open_ledger


def test_pruning_has_saved_the_epochs_that_pruned_trials_did_not_run(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path, "training.epochs=10")
    ended = [
        (TrialState.COMPLETE, 10, {}),
        (TrialState.COMPLETE, 6, {}),  # stopped early, which pruning has no part in
        (TrialState.PRUNED, 3, {}),
        (TrialState.PRUNED, 2, {"training.epochs": 5}),  # had fewer to begin with
        (TrialState.FAIL, 1, {}),
    ]
    for state, epochs, overrides in ended:
        trial = optuna.create_trial(
            state=state,
            value=0.5 if state == TrialState.COMPLETE else None,
            intermediate_values=dict.fromkeys(range(1, epochs + 1), 0.5),
            user_attrs={"regsearch.overrides": overrides},
        )
        ledger.study.add_trial(trial)
    now = standing(ledger)
    assert (now.saved_epochs, now.allowed_epochs) == (7 + 3, 10 + 10 + 10 + 5)
    assert study_metrics(now)["pruning/epochs_saved"] == 10 / 35
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(summary(Outcome(ledger.config, now)))
    assert "pruning saved 29% of their epochs" in console.export_text()
