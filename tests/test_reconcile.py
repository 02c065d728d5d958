"""MLflow is made to agree with the study's store (contract row 20, and what else may differ)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric

from pipeline.events import TrialRequeued
from pipeline.journal import journal_folder
from pipeline.tracking import Finding, Mirror, TrialRecord, reconcile
from tests.mirrors import (
    all_runs,
    curve,
    ended,
    epoch,
    lived,
    open_mirror,
    picture,
    started,
    trial_runs,
    write,
)

pytestmark = pytest.mark.usefixtures("workspace")


def record(number: int, **changes: Any) -> TrialRecord:
    """What the store says of a trial that the journal tells as `lived` does."""
    values: dict[str, Any] = {
        "number": number,
        "attempt": 1,
        "state": "COMPLETE",
        "name": f"trial {number}",
        "params": {"x": number},
        "metric": "loss",
        "curve": {1: 1.0, 2: 0.5, 3: 1 / 3},
        "started_ms": 1_000,
        "ended_ms": 2_000,
    }
    return TrialRecord(**{**values, **changes})


@pytest.fixture
def mirror() -> Iterator[Mirror]:
    """With trials 0 and 1 in the journal and delivered."""
    mirror = open_mirror()
    write([*lived(0), *lived(1)])
    assert mirror.flush(60)
    yield mirror
    mirror.close(60)


def deliver(mirror: Mirror, *events: Any) -> None:
    write(events)
    assert mirror.flush(60)


def forget_the_journal() -> None:
    for path in journal_folder("id-1").glob("*.jsonl"):
        path.unlink()


def texts(findings: list[Finding]) -> list[str]:
    assert len({finding.fixed for finding in findings}) <= 1
    return [finding.text for finding in findings]


def test_nothing_is_found_where_all_agrees(mirror: Mirror) -> None:
    before = picture()
    deliver(mirror, started(2), started(3), TrialRequeued(3, 1, "killed", 1_500))
    trials = [record(0), record(1), record(2, state="RUNNING"), record(3, state="WAITING")]
    trials += [record(4, state="WAITING", attempt=0)]
    assert reconcile(mirror, trials) == []
    assert [row for row in picture() if row[0] in ("my study", "trial 0", "trial 1")] == before


def test_what_differs_is_told_and_left_unless_it_shall_be_mended(mirror: Mirror) -> None:
    client = MlflowClient()
    client.delete_run(mirror.trial_run_id(0))
    client.set_terminated(mirror.trial_run_id(1), "KILLED")
    before = picture()
    trials = [record(0), record(1)]
    expected = [
        "trial 0: it has no run",
        "trial 1: its run is KILLED (COMPLETE), the trial is COMPLETE",
    ]
    findings = reconcile(mirror, trials, fix=False)
    assert (texts(findings), findings[0].fixed) == (expected, False)
    assert picture() == before
    findings = reconcile(mirror, trials)
    assert (texts(findings), findings[0].fixed) == (expected, True)
    assert reconcile(mirror, trials) == []


def test_a_missing_run_is_built_again_from_the_journal(mirror: Mirror) -> None:
    before = picture()
    MlflowClient().delete_run(mirror.trial_run_id(1))
    assert reconcile(mirror, [record(0), record(1)]) == [Finding("trial 1: it has no run", True)]
    assert picture() == before


def test_without_a_journal_a_missing_run_is_built_from_the_store(mirror: Mirror) -> None:
    MlflowClient().delete_run(mirror.trial_run_id(1))
    forget_the_journal()
    lost = record(
        1,
        state="PRUNED",
        attempt=3,
        params={"x": 1, "off": None},
        tags={"regsearch.baseline": "recipe"},
        curve={1: 1.0, 2: float("nan"), 3: 0.25},
        reason="pruned after epoch 3",
    )
    assert reconcile(mirror, [record(0), lost]) == [Finding("trial 1: it has no run", True)]
    run = trial_runs()[1]
    assert (run.info.run_name, run.info.status) == ("trial 1", "KILLED")
    assert (run.info.start_time, run.info.end_time) == (1_000, 2_000)
    assert run.data.params == {"x": "1", "off": "None"}
    assert curve(run) == [(1, 1.0), (3, 0.25)]
    tags = run.data.tags
    assert (tags["regsearch.state"], tags["regsearch.attempt"]) == ("PRUNED", "3")
    assert tags["regsearch.reason"] == "pruned after epoch 3"
    assert tags["regsearch.baseline"] == "recipe"
    assert tags["regsearch.non_finite.loss"] == "nan at step 2"
    assert reconcile(mirror, [record(0), lost]) == []


def test_gaps_in_a_curve_are_filled_and_what_is_there_stays(mirror: Mirror) -> None:
    deliver(mirror, started(2), epoch(2, 2, 0.9))
    three = record(2, params={})
    [finding] = reconcile(mirror, [record(0), record(1), three])
    assert finding.text == (
        "trial 2: its run is RUNNING (RUNNING), the trial is COMPLETE, its run lacks epochs of loss"
    )
    assert sorted(curve(trial_runs()[2])) == [(1, 1.0), (2, 0.9), (3, 1 / 3)]
    assert trial_runs()[2].info.status == "FINISHED"
    assert reconcile(mirror, [record(0), record(1), three]) == []
    other = replace(three, curve={1: 1.0, 2: 0.5, 3: 0.123})  # another last value is no gap
    assert reconcile(mirror, [record(0), record(1), other]) == []


def test_a_missing_table_is_logged_from_the_store(mirror: Mirror) -> None:
    rows = [{"layer": "stem", "mean_abs": 0.5}]
    has = [record(0), record(1, tables={"weights.json": rows})]
    assert texts(reconcile(mirror, has)) == ["trial 1: its run lacks weights.json"]
    assert reconcile(mirror, has) == []
    table = mirror.client.load_table(mirror.experiment_id, "weights.json")
    assert table.to_dict("records") == rows
    assert trial_runs()[1].info.status == "FINISHED"


def test_missing_parameters_are_told(mirror: Mirror) -> None:
    trials = [record(0), record(1, params={"x": 1, "y": 2})]
    assert texts(reconcile(mirror, trials)) == ["trial 1: its run lacks parameters"]
    assert trial_runs()[1].data.params == {"x": "1", "y": "2"}


def test_the_run_of_a_waiting_trial_is_closed_and_a_running_one_left_alone(
    mirror: Mirror,
) -> None:
    """Contract row 20: its process was killed, and nobody lived to say so."""
    deliver(mirror, started(2), started(3))
    waiting = record(2, state="WAITING", reason="killed", ended_ms=None)
    trials = [record(0), record(1), waiting, record(3, state="RUNNING")]
    assert texts(reconcile(mirror, trials)) == [
        "trial 2: its run is RUNNING (RUNNING), the trial is WAITING"
    ]
    runs = trial_runs()
    assert (runs[2].info.status, runs[2].data.tags["regsearch.state"]) == ("KILLED", "WAITING")
    assert runs[2].data.tags["regsearch.reason"] == "killed"
    assert runs[3].info.status == "RUNNING"
    assert reconcile(mirror, trials) == []


def test_the_store_is_right_even_against_the_journal(mirror: Mirror) -> None:
    """The verdict was written down and the process killed before the store was told, or so."""
    deliver(mirror, started(2), ended(2, "FAIL"), started(3), TrialRequeued(3, 1, "killed", 1))
    trials = [record(0), record(1), record(2, params={}), record(3, params={}, curve={})]
    assert len(reconcile(mirror, trials)) == 2
    assert [trial_runs()[number].info.status for number in (2, 3)] == ["FINISHED", "FINISHED"]
    assert [trial_runs()[n].data.tags["regsearch.state"] for n in (2, 3)] == ["COMPLETE"] * 2
    assert reconcile(mirror, trials) == []


def test_a_run_of_a_later_attempt_is_ahead_of_the_record(mirror: Mirror) -> None:
    deliver(mirror, started(2), started(2, attempt=2))
    before = picture()
    trials = [record(0), record(1), record(2, attempt=1, state="WAITING")]
    assert reconcile(mirror, trials) == []
    assert picture() == before


def test_orphans_and_duplicates_are_deleted_but_not_what_has_just_begun(mirror: Mirror) -> None:
    client = MlflowClient()
    kept = mirror.trial_run_id(1)
    identity = {
        "regsearch.kind": "trial",
        "regsearch.trial": "1",
        "mlflow.parentRunId": mirror.run_id,
    }
    twin = client.create_run(mirror.experiment_id, 5_000, identity).info.run_id
    orphan = mirror.trial_run_id(0)
    new = client.create_run(mirror.experiment_id, None, {**identity, "regsearch.trial": "9"})
    nobodys = client.create_run(mirror.experiment_id, 1, {**identity, "regsearch.trial": "x"})
    trials = [record(1)]
    expected = {
        f"run {orphan} is of trial 0, which the study does not have",
        f"run {nobodys.info.run_id} is of trial None, which the study does not have",
        f"trial 1 has one more run, {twin}",
    }
    findings = reconcile(mirror, trials, fix=False)
    assert (set(texts(findings)), findings[0].fixed) == (expected, False)
    assert len(all_runs()) == 6
    assert set(texts(reconcile(mirror, trials))) == expected
    left = {run.info.run_id for run in all_runs()}
    assert left == {mirror.run_id, kept, new.info.run_id}
    assert reconcile(mirror, trials) == []


def test_runs_beyond_a_page_are_looked_at(mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.tracking.finding._PAGE", 2)
    deliver(mirror, *(event for trial in range(2, 7) for event in lived(trial)))
    trials = [record(number) for number in range(7)]
    assert reconcile(mirror, trials) == []
    assert len(reconcile(mirror, trials[:3])) == 4


def test_what_mlflow_refuses_is_told_and_the_rest_mended(mirror: Mirror) -> None:
    deliver(mirror, started(2, x=2), started(3))
    trials = [record(0), record(1), record(2, params={"x": 3}), record(3, params={})]
    findings = reconcile(mirror, trials)
    assert [finding.fixed for finding in findings] == [False, True]
    assert "MLflow refuses: Changing param values is not allowed" in findings[0].text
    assert [trial_runs()[number].info.status for number in (2, 3)] == ["FINISHED", "FINISHED"]


def test_a_store_that_is_gone_is_told(mirror: Mirror, workspace: Path) -> None:
    (workspace / "mlflow.db").rename(workspace / "mlflow.gone")
    [finding] = reconcile(mirror, [record(0)])
    assert finding.text.startswith("MLflow could not be compared: ")
    assert not finding.fixed
    (workspace / "mlflow.gone").replace(workspace / "mlflow.db")


def test_points_that_somebody_else_wrote_are_no_gap(mirror: Mirror) -> None:
    points = [Metric("loss", 0.125, 3_000, 4)]
    MlflowClient().log_batch(mirror.trial_run_id(0), points, synchronous=True)
    assert reconcile(mirror, [record(0), record(1)]) == []
