"""The study's books, on a real SQLite store."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from optuna.trial import TrialState

from pipeline.errors import UserError
from pipeline.study.baselines import baselines
from pipeline.study.ledger import LINEAGE, OWNER, REASON, Ledger, overrides_of
from pipeline.study.storage import open_storage
from tests.spaces import TINY, tiny_config


def open_ledger(folder: Path, *assignments: str, text: str = TINY) -> Ledger:
    storage = open_storage(f"sqlite:///{folder}/optuna.db")
    return Ledger(tiny_config(folder, *assignments, text=text), storage)


def test_the_baselines_come_first_with_their_true_settings(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    first, second, third = ledger.claim(), ledger.claim(), ledger.claim()
    assert first
    assert second
    assert third
    assert (first.baseline, second.baseline, third.baseline) == ("unregularized", "recipe", None)
    assert first.name == "trial 0 (unregularized)"
    assert first.overrides == {"regularization.dropout": 0.0}
    assert first.params == {"regularization.dropout": 0.0, "training.optimizer.weight_decay": 0.0}
    assert second.overrides == {}
    assert second.params["regularization.dropout"] == 0.5
    assert third.overrides == third.trial.params


def test_optuna_is_told_the_nearest_point_of_a_baseline_outside_the_space(tmp_path: Path) -> None:
    claim = open_ledger(tmp_path).claim()
    assert claim is not None
    # No weight decay is not on a log scale, so the sampler learns from the low end of it.
    assert claim.trial.params["training.optimizer.weight_decay"] == 1e-5
    assert claim.params["training.optimizer.weight_decay"] == 0.0


def test_a_file_without_regularization_has_one_baseline(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, text=TINY.replace("regularization: {dropout: 0.5}", ""))
    assert baselines(config) == {"unregularized": {}}


def test_the_unregularized_baseline_switches_off_every_regularizer_that_is_on(
    tmp_path: Path,
) -> None:
    config = tiny_config(
        tmp_path,
        "regularization.l1=0.1",
        "regularization.mixup_alpha=1.0",
        "training.optimizer.weight_decay=0.01",
        "augmentation.strength=0.5",
    )
    assert baselines(config)["unregularized"] == {
        "training.optimizer.weight_decay": 0.0,
        "regularization.mixup_alpha": 0.0,
        "regularization.l1": 0.0,
        "regularization.dropout": 0.0,
        "augmentation.strength": 0.0,
    }


def test_the_budget_counts_complete_and_pruned_trials_over_all_runs(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)  # 4 trials
    for end in ("complete", "prune", "fail", "complete"):
        claim = ledger.claim()
        assert claim is not None
        if end == "complete":
            ledger.complete(claim, 0.5)
        elif end == "prune":
            claim.trial.report(0.1, 1)
            ledger.prune(claim)
        else:
            ledger.fail(claim, "a reason")
    again = open_ledger(tmp_path)
    assert again.num_finished() == 3
    last = again.claim()
    assert last is not None
    assert last.number == 4
    again.complete(last, 0.6)
    assert again.claim() is None
    assert again.trials(TrialState.FAIL)[0].user_attrs["regsearch.reason"] == "a reason"


def test_more_trials_may_be_asked_for_later(tmp_path: Path) -> None:
    assert open_ledger(tmp_path).claim()
    assert open_ledger(tmp_path, "study.trials=9").claim()


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        ("training.epochs=3", "training.epochs: 2 then, 3 now"),
        ("study.metric=validation/loss", "study.metric"),
        ("regularization.l1=0.5", "regularization.l1: 0.0 then, 0.5 now"),
    ],
)
def test_other_settings_are_refused_with_a_diff(tmp_path: Path, change: str, shown: str) -> None:
    open_ledger(tmp_path)
    with pytest.raises(UserError) as error:
        open_ledger(tmp_path, change)
    assert shown in str(error.value)


def test_other_bounds_are_refused_with_a_diff(tmp_path: Path) -> None:
    open_ledger(tmp_path)
    with pytest.raises(UserError, match=r"search\.regularization\.dropout"):
        open_ledger(tmp_path, text=TINY.replace("high: 0.7", "high: 0.6"))


def test_other_images_are_refused(tmp_path: Path) -> None:
    open_ledger(tmp_path).require_same_data("abc")
    open_ledger(tmp_path).require_same_data("abc")
    with pytest.raises(UserError, match="abc then, def now"):
        open_ledger(tmp_path).require_same_data("def")


@pytest.mark.parametrize(("metric", "best"), [("accuracy", 0.9), ("loss", 0.2)])
def test_the_best_trial_follows_the_metrics_direction(
    tmp_path: Path, metric: str, best: float
) -> None:
    ledger = open_ledger(tmp_path, f"study.metric=validation/{metric}")
    for value in (0.5, 0.9, 0.2):
        claim = ledger.claim()
        assert claim is not None
        ledger.complete(claim, value)
    found = ledger.best()
    assert found is not None
    assert found.value == best
    assert set(ledger.trials_to_keep()) == {0, 1, found.number}  # the baselines are 0 and 1


def test_baselines_are_never_pruned(tmp_path: Path) -> None:
    rule = "pruner: {kind: threshold, lower: 0.9, warmup_epochs: 0}"
    ledger = open_ledger(tmp_path, text=TINY.replace("pruner: {kind: none}", rule))
    first, _, third = ledger.claim(), ledger.claim(), ledger.claim()
    assert first
    assert third
    assert first.report(1, 0.1) is False
    assert third.report(1, 0.1) is True


def test_a_restarted_study_does_not_draw_its_first_points_again(tmp_path: Path) -> None:
    drawn = []
    for _ in range(4):  # each claim in a study opened anew
        claim = open_ledger(tmp_path, "study.trials=9").claim()
        assert claim is not None
        drawn.append(claim.trial.params["regularization.dropout"])
    assert len(set(drawn[2:])) == 2


def test_a_killed_processes_trial_is_queued_once_more(tmp_path: Path) -> None:
    """Its retry has the same parameters and, by its lineage, the same seeds."""
    code = (
        "import sys; from pathlib import Path; from tests.test_ledger import open_ledger\n"
        "ledger = open_ledger(Path(sys.argv[1]))\n"
        "claims = [ledger.claim() for _ in range(3)]\n"
        "print('claimed', flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[1],
    )
    assert process.stdout is not None
    assert process.stdin is not None
    assert process.stdout.readline() == b"claimed\n"
    ledger = open_ledger(tmp_path)
    assert ledger.requeue_dead() == []  # it is alive
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdin.close()
    process.stdout.close()
    assert ledger.requeue_dead() == [0, 1, 2]
    assert ledger.requeue_dead() == []
    retries = [claim for claim in (ledger.claim() for _ in range(3)) if claim]
    assert [claim.lineage for claim in retries] == [0, 1, 2]
    assert [claim.baseline for claim in retries] == ["unregularized", "recipe", None]
    dead = ledger.trials(TrialState.FAIL)
    assert [claim.trial.params for claim in retries] == [trial.params for trial in dead]
    assert [overrides_of(trial) for trial in dead] == [claim.overrides for claim in retries]


def test_a_retry_of_a_retry_keeps_the_first_number(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    for _ in range(3):
        claim = ledger.claim()
        assert claim is not None
        if claim.number > 0:
            break
        ledger.give_back(claim, "interrupted")
    queued = ledger.trials(TrialState.WAITING)[-1]
    assert queued.user_attrs[LINEAGE] == 0


def test_a_baseline_that_failed_is_tried_once_more_in_the_next_run(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    for _ in range(2):
        claim = ledger.claim()
        assert claim
        ledger.fail(claim, "the GPU was busy")
    assert ledger.baseline("unregularized") is None
    again = open_ledger(tmp_path)
    retries = [claim for claim in (again.claim(), again.claim()) if claim]
    assert [claim.baseline for claim in retries] == ["unregularized", "recipe"]
    assert [claim.lineage for claim in retries] == [0, 1]
    again.complete(retries[0], 0.5)
    again.complete(retries[1], 0.6)
    third = open_ledger(tmp_path).claim()
    assert third
    assert third.baseline is None


def test_a_pid_that_came_again_is_not_the_same_process(tmp_path: Path) -> None:
    """In a container every run is process 1."""
    ledger = open_ledger(tmp_path)
    claim = ledger.claim()
    assert claim
    owner = claim.trial.user_attrs[OWNER]
    assert ledger.requeue_dead() == []
    host, pid, start = owner.rsplit(":", 2)
    claim.trial.set_user_attr(OWNER, f"{host}:{pid}:{int(start) - 1}")
    assert ledger.requeue_dead() == [0]
    assert ledger.trials(TrialState.FAIL)[0].user_attrs[REASON] == "its process died"


@pytest.mark.parametrize(
    "change",
    ["data.root=elsewhere", "registry.model_name=other", "study.max_consecutive_failures=9"],
)
def test_what_changes_no_trial_may_change(tmp_path: Path, change: str) -> None:
    open_ledger(tmp_path)
    assert open_ledger(tmp_path, change).claim()


def test_a_default_may_be_written_out(tmp_path: Path) -> None:
    open_ledger(tmp_path)
    spelt = TINY.replace("high: 0.7}", "high: 0.7, log: false}")
    assert open_ledger(tmp_path, text=spelt).claim()
