"""MLflow mirrors the study's journal, whatever order and however often it comes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient

from pipeline.errors import UserError
from pipeline.events import (
    EpochEnded,
    Note,
    StudyEnded,
    StudyProgress,
    StudyStarted,
    TrialRequeued,
    TrialScored,
    TrialStarted,
)
from pipeline.journal import journal_folder
from pipeline.tracking import connect
from pipeline.tracking.runs import StudyRuns, study_identity
from pipeline.tracking.tables import logged_tables
from pipeline.tracking.updates import Point, RunUpdate, coalesce, to_updates
from tests.mirrors import (
    DIGITS,
    curve,
    deliver,
    ended,
    epoch,
    lived,
    open_mirror,
    picture,
    started,
    trial_runs,
    write,
)


def open_runs() -> StudyRuns:
    return StudyRuns.open(connect(), "my study", study_identity("id-1"), DIGITS, "a maker")


@pytest.mark.usefixtures("workspace")
def test_a_study_is_seen_in_mlflow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)
    mirror = open_mirror(artifacts={"space.yaml": "trials: 3"}, tags={"regsearch.device": "cpu"})
    write([StudyStarted(900)])
    states = [("COMPLETE", "best epoch 2 of 3"), ("PRUNED", "after epoch 2"), ("FAIL", "bang")]
    for number, (state, reason) in enumerate(states):
        params = {"training.optimizer.learning_rate": 1e-05, "model.width": 16, "off": None}
        tags = {"regsearch.baseline": "recipe"}
        name = f"trial {number}"
        write([TrialStarted(number, 1, "worker 1", name, params, 3, 1_000 + number, tags)])
        for step in (1, 2):
            metrics = {"validation/loss": 1 / step, "train/loss": 0.5}
            write([EpochEnded(number, 1, step, metrics, 1_100 + step), Note("hello", 1)])
        write([ended(number, state, reason=reason, at=2_000 + number)])
        write([StudyProgress(number + 1, {"best": 0.5 + number / 10}, 2_100 + number)])
    write([StudyEnded("FINISHED", 3_000)])
    report = mirror.close(60)
    assert report.complete, report

    client = MlflowClient()
    study = client.get_run(mirror.run_id)
    assert client.get_experiment(mirror.experiment_id).name == "my study"
    assert (study.data.tags["regsearch.kind"], study.info.run_name) == ("study", "my study")
    assert study.data.tags["regsearch.device"] == "cpu"
    assert (study.info.status, study.info.end_time) == ("FINISHED", 3_000)
    assert curve(study, "best") == [(1, 0.5), (2, 0.6), (3, 0.7)]
    assert [file.path for file in client.list_artifacts(mirror.run_id)] == ["space.yaml"]

    runs = trial_runs()
    assert [runs[number].info.status for number in range(3)] == ["FINISHED", "KILLED", "FAILED"]
    assert [
        (run.data.tags["regsearch.state"], run.data.tags["regsearch.reason"])
        for _, run in sorted(runs.items())
    ] == states
    first = runs[0]
    assert first.info.run_name == "trial 0"
    assert (first.info.start_time, first.info.end_time) == (1_000, 2_000)
    assert first.info.run_id == mirror.trial_run_id(0)
    assert first.data.tags["mlflow.parentRunId"] == mirror.run_id
    assert first.data.tags["regsearch.attempt"] == "1"
    assert first.data.tags["regsearch.worker"] == "worker 1"
    assert first.data.tags["regsearch.baseline"] == "recipe"
    assert first.data.params == {
        "training.optimizer.learning_rate": "1e-05",
        "model.width": "16",
        "off": "None",
    }
    assert curve(first, "validation/loss") == [(1, 1.0), (2, 0.5)]
    for run in (study, first):
        [dataset_input] = run.inputs.dataset_inputs
        assert dataset_input.dataset.digest == DIGITS.digest
        assert [tag.value for tag in dataset_input.tags] == ["training"]
    assert mlflow.active_run() is None


@pytest.mark.usefixtures("workspace")
def test_a_trials_table_is_one_that_mlflow_shows_and_is_logged_once() -> None:
    rows = [{"layer": "stem", "mean_abs": 0.5}, {"layer": "head", "mean_abs": 0.25}]
    scored = TrialScored(7, 1, 1, {"selection/accuracy": 0.9}, {}, 1_500, {"weights.json": rows})
    story = [started(7), epoch(7, 1), scored, ended(7)]
    deliver(events=story)
    deliver(events=story)  # a replay
    client = MlflowClient()
    [run] = trial_runs().values()
    assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["weights.json"]
    table = client.load_table(run.info.experiment_id, "weights.json")
    assert table.to_dict("records") == rows
    assert run.data.tags["mlflow.loggedArtifacts"].count("weights.json") == 1


@pytest.mark.usefixtures("workspace")
def test_a_table_joins_those_that_a_user_has_logged() -> None:
    deliver(events=lived(7))
    client, [run] = MlflowClient(), trial_runs().values()
    tag = json.dumps([{"path": "errors.json", "type": "table"}])  # as `log_table` leaves it
    client.set_tag(run.info.run_id, "mlflow.loggedArtifacts", tag)
    table = {"weights.json": [{"layer": "0"}]}
    deliver(events=[TrialScored(7, 1, 1, {}, {}, 2_500, table)])
    [run] = trial_runs().values()
    assert logged_tables(run.data.tags) == {"errors.json", "weights.json"}


@pytest.mark.usefixtures("workspace")
def test_opening_again_goes_on_with_the_same_runs() -> None:
    first = open_mirror(artifacts={"space.yaml": "trials: 3"})
    write([StudyStarted(1), started(7, x=1), epoch(7, 1)])
    write([TrialRequeued(7, 1, "killed", 1_500), StudyEnded("KILLED", 1_600)])
    assert first.close(60).complete
    [run] = trial_runs().values()
    assert (run.info.status, run.info.end_time) == ("KILLED", 1_500)
    assert run.data.tags["regsearch.state"] == "WAITING"
    assert run.data.tags["regsearch.reason"] == "killed"

    again = open_mirror(artifacts={"space.yaml": "trials: 99"})
    client = MlflowClient()
    assert again.run_id == first.run_id
    assert client.get_run(again.run_id).info.status == "KILLED"  # looking is not going on
    write([StudyStarted(1_700), started(7, attempt=2, time_ms=1_800, x=1)])
    assert again.flush(60)
    [run] = trial_runs().values()
    assert run.info.status == "RUNNING"
    assert run.data.tags["regsearch.state"] == "RUNNING"
    assert run.data.tags["regsearch.attempt"] == "2"
    assert run.data.tags["regsearch.worker"] == "worker 2"
    assert run.info.start_time == 1_000
    assert run.info.run_id == again.trial_run_id(7)
    assert client.get_run(again.run_id).info.status == "RUNNING"

    write([epoch(7, 2, attempt=2), ended(7, attempt=2)])
    assert again.close(60).complete
    [run] = trial_runs().values()
    assert run.info.status == "FINISHED"
    assert run.data.tags["regsearch.reason"] == ""  # not why the first attempt ended
    assert [step for step, _ in curve(run)] == [1, 2]
    space = client.download_artifacts(again.run_id, "space.yaml")
    assert Path(space).read_text() == "trials: 3"


@pytest.mark.usefixtures("workspace")
def test_another_study_of_the_same_name_has_its_own_run() -> None:
    write([started(0)], "id-2")
    mirrors = [open_mirror("id-1"), open_mirror("id-2")]
    assert all(mirror.flush(60) for mirror in mirrors)
    assert mirrors[0].experiment_id == mirrors[1].experiment_id
    assert mirrors[0].run_id != mirrors[1].run_id
    with pytest.raises(LookupError, match="trial 0"):
        mirrors[0].trial_run_id(0)
    assert mirrors[1].trial_run_id(0)
    for mirror in mirrors:
        mirror.close(60)


@pytest.mark.usefixtures("workspace")
def test_values_that_are_not_finite_become_tags() -> None:
    metrics = {"a": float("nan"), "b": float("inf"), "c": -float("inf"), "d": 1.0}
    deliver(events=[started(0), EpochEnded(0, 1, 3, metrics, 1_003)])
    [run] = trial_runs().values()
    assert run.data.metrics == {"d": 1.0}
    assert run.data.tags["regsearch.non_finite.b"] == "inf at step 3"
    assert run.data.tags["regsearch.non_finite.a"] == "nan at step 3"


@pytest.mark.usefixtures("workspace")
def test_delivering_the_whole_journal_again_changes_nothing() -> None:
    story = [StudyStarted(900), *lived(0), *lived(1)[:-1], started(2), epoch(2, 1)]
    story += [TrialRequeued(2, 1, "killed", 1_900), started(2, attempt=2, time_ms=1_950)]
    deliver(events=[*story, StudyProgress(1, {"best": 0.5}, 2_100), StudyEnded("KILLED", 2_200)])
    before = picture()
    assert [len(curve(run)) for _, run in sorted(trial_runs().items())] == [3, 3, 1]
    [saved] = journal_folder("id-1").glob("delivered-*.json")
    spoilt = json.dumps(dict.fromkeys(json.loads(saved.read_text()), "far"))
    for content in (None, "", "[1]", spoilt):  # as lost, torn or of another version
        saved.unlink() if content is None else saved.write_text(content)
        assert deliver().complete
        assert picture() == before


@pytest.mark.usefixtures("workspace")
def test_the_same_epoch_of_two_attempts_is_one_point_and_the_first_stays() -> None:
    deliver(events=[started(0), epoch(0, 1, loss=0.9), epoch(0, 2, loss=0.8)])
    second = [started(0, attempt=2, time_ms=1_500)]
    second += [epoch(0, n, loss, attempt=2, time_ms=1_500 + n) for n, loss in [(2, 0.7), (3, 0.6)]]
    deliver(events=second)  # by another process, that has to ask MLflow
    assert curve(trial_runs()[0]) == [(1, 0.9), (2, 0.8), (3, 0.6)]
    third = [started(0, attempt=3, time_ms=1_600)]
    third += [epoch(0, 4, 0.5, attempt=3), epoch(0, 4, 0.4, attempt=3, time_ms=1_700)]
    deliver(events=[*third, epoch(0, 3, 0.3, attempt=3, time_ms=1_650)])  # and within one update
    assert sorted(curve(trial_runs()[0])) == [(1, 0.9), (2, 0.8), (3, 0.6), (4, 0.5)]


@pytest.mark.usefixtures("workspace")
@pytest.mark.parametrize("together", [True, False])
def test_what_an_older_attempt_says_late_leaves_the_status_alone(together: bool) -> None:
    """A worker that was frozen wakes up: its curve counts, its verdict does not."""
    now = [started(0), epoch(0, 1), TrialRequeued(0, 1, "silent", 1_400)]
    now += [started(0, attempt=2, time_ms=1_500)]
    late = [epoch(0, 2, 0.25, time_ms=1_600), ended(0, "FAIL", reason="late", at=1_700)]
    if not together:
        deliver(events=now)
    deliver(events=late if not together else [*now, *late])
    run = trial_runs()[0]
    assert (run.info.status, run.info.end_time in (None, 1_400)) == ("RUNNING", True)
    tags = run.data.tags
    assert (tags["regsearch.state"], tags["regsearch.attempt"]) == ("RUNNING", "2")
    assert tags["regsearch.worker"] == "worker 2"
    assert tags.get("regsearch.reason") != "late"
    assert curve(run) == [(1, 0.5), (2, 0.25)]


@pytest.mark.usefixtures("workspace")
@pytest.mark.parametrize("together", [True, False])
def test_a_trial_that_was_requeued_is_not_settled_by_the_attempt_that_lost_it(
    together: bool,
) -> None:
    first = [started(0), TrialRequeued(0, 1, "silent", 1_400)]
    late = [ended(0, at=1_700)]
    if not together:
        deliver(events=first)
    deliver(events=late if not together else [*first, *late])
    run = trial_runs()[0]
    assert (run.info.status, run.data.tags["regsearch.state"]) == ("KILLED", "WAITING")


@pytest.mark.usefixtures("workspace")
def test_a_settled_run_is_not_opened_again_by_a_replayed_start() -> None:
    deliver(events=lived(0))
    open_runs().send(to_updates([started(0)])[0])
    run = trial_runs()[0]
    assert (run.info.status, run.data.tags["regsearch.state"]) == ("FINISHED", "COMPLETE")


@pytest.mark.usefixtures("workspace")
def test_a_run_that_somebody_deleted_is_made_anew() -> None:
    runs = open_runs()
    for update in to_updates([started(0), epoch(0, 1)]):
        runs.send(update)
    MlflowClient().delete_run(trial_runs()[0].info.run_id)
    runs.send(to_updates([epoch(0, 2)])[0])
    assert curve(trial_runs()[0]) == [(2, 0.5)]


@pytest.mark.usefixtures("workspace")
def test_a_large_update_goes_in_calls_that_a_server_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []

    def log_batch(_: str, metrics: Any, params: Any, tags: Any, synchronous: bool) -> None:
        assert synchronous  # whatever MLFLOW_ENABLE_ASYNC_LOGGING says
        sizes.append((len(metrics), len(params), len(tags)))

    runs = open_runs()
    monkeypatch.setattr(runs.client, "log_batch", log_batch)
    params = {f"p{i}": "1" for i in range(150)}
    points = tuple(Point("loss", 1.0, step, 0) for step in range(1_700))
    runs.send(RunUpdate(0, 0, params, {"t": "1"}, points))
    assert sizes == [(800, 100, 1), (800, 50, 0), (100, 0, 0)]


@pytest.mark.usefixtures("workspace")
def test_a_run_whose_parameters_are_refused_ends_all_the_same() -> None:
    deliver(events=[started(0, x=1)])
    report = deliver(events=[started(0, attempt=2, time_ms=1_500, x=2), ended(0, attempt=2)])
    assert report.num_pending == 0
    [refused] = report.refused
    assert "Changing param values is not allowed" in refused
    assert trial_runs()[0].info.status == "FINISHED"


def test_updates_of_one_run_are_joined_and_later_ones_win() -> None:
    def point(step: int) -> Point:
        return Point("loss", 1.0, step, 0)

    joined = coalesce(
        [
            RunUpdate(1, 10, params={"p": "1"}, tags={"t": "old"}, status="RUNNING"),
            RunUpdate(2, 11, metrics=(point(1),)),
            RunUpdate(1, 12, tags={"t": "new"}, metrics=(point(1),)),
            RunUpdate(1, 13, metrics=(point(2),), status="KILLED", end_time_ms=13),
            RunUpdate(1, 14, tags={"u": "1"}),
        ]
    )
    tags = {"t": "new", "u": "1"}
    assert joined == [
        RunUpdate(1, 10, {"p": "1"}, tags, (point(1), point(2)), "KILLED", 13),
        RunUpdate(2, 11, metrics=(point(1),)),
    ]


def test_the_study_itself_may_end_and_start_again() -> None:
    events = [StudyStarted(1), StudyEnded("FINISHED", 2), StudyStarted(3)]
    [update] = coalesce(to_updates(events))
    assert (update.status, update.end_time_ms) == ("RUNNING", None)


def test_no_password_of_a_reason_is_told() -> None:
    reason = "no answer from postgresql://bob:s3cret@db/x"
    [update] = to_updates([TrialRequeued(0, 1, reason, 1)])
    assert update.tags["regsearch.reason"] == "no answer from postgresql://***@db/x"


@pytest.mark.usefixtures("workspace")
def test_a_deleted_experiment_is_told_with_its_cure() -> None:
    mirror = open_mirror()
    mirror.close(60)
    MlflowClient().delete_experiment(mirror.experiment_id)
    with pytest.raises(UserError, match="mlflow experiments restore"):
        open_mirror()
