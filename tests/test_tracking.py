"""MLflow mirrors the study, whatever happens to MLflow."""

from __future__ import annotations

import socket
import threading
from pathlib import Path
from typing import Any

import mlflow
import optuna
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from pipeline.errors import UserError, redact
from pipeline.tracking import DatasetInfo, Mirror, connect
from pipeline.tracking.delivery import Delivery
from pipeline.tracking.runs import StudyRuns, is_final
from pipeline.tracking.updates import Point, RunUpdate, coalesce

DIGITS = DatasetInfo("digits", "0123456789abcdef", {"kind": "digits"}, {"num_images": 1797})


def open_mirror(study_id: str = "id-1", space: str = "trials: 3\n") -> Mirror:
    return Mirror.open("my study", study_id, DIGITS, artifacts={"space.yaml": space})


def trial_runs(mirror: Mirror) -> dict[str, Run]:
    runs = MlflowClient().search_runs(
        [mirror.experiment_id], f"tags.`mlflow.parentRunId` = '{mirror.run_id}'"
    )
    return {run.data.tags["regsearch.trial"]: run for run in runs}


def curve(run: Run, name: str) -> list[tuple[int, float]]:
    history = MlflowClient().get_metric_history(run.info.run_id, name)
    return [(point.step, point.value) for point in history]


@pytest.mark.usefixtures("workspace")
def test_a_study_is_seen_in_mlflow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)
    mirror = open_mirror()
    for number, (state, reason) in enumerate(
        [("COMPLETE", None), ("PRUNED", "worse than the median"), ("FAIL", "out of memory")]
    ):
        mirror.start_trial(number, {"training.optimizer.learning_rate": 1e-05, "model.width": 16})
        for epoch in (1, 2):
            mirror.log_epoch(number, epoch, {"validation/loss": 1 / epoch, "train/loss": 0.5})
        mirror.end_trial(number, state, reason)
        mirror.log_study(number, {"best": 0.5 + number / 10})
    mirror.end_study()
    assert mirror.close().complete

    client = MlflowClient()
    study = client.get_run(mirror.run_id)
    assert client.get_experiment(mirror.experiment_id).name == "my study"
    assert study.data.tags["regsearch.kind"] == "study"
    assert study.info.status == "FINISHED"
    assert curve(study, "best") == [(0, 0.5), (1, 0.6), (2, 0.7)]
    assert [file.path for file in client.list_artifacts(mirror.run_id)] == ["space.yaml"]

    runs = trial_runs(mirror)
    assert [runs[number].info.status for number in "012"] == ["FINISHED", "KILLED", "FAILED"]
    assert [runs[number].data.tags["regsearch.state"] for number in "012"] == [
        "COMPLETE",
        "PRUNED",
        "FAIL",
    ]
    first = runs["0"]
    assert first.info.run_name == "trial 0"
    assert first.data.tags["regsearch.kind"] == "trial"
    assert first.data.params == {"training.optimizer.learning_rate": "1e-05", "model.width": "16"}
    assert curve(first, "validation/loss") == [(1, 1.0), (2, 0.5)]
    assert "regsearch.reason" not in first.data.tags
    assert runs["2"].data.tags["regsearch.reason"] == "out of memory"
    for run in (study, first):
        [dataset_input] = run.inputs.dataset_inputs
        assert dataset_input.dataset.digest == DIGITS.digest
        assert [tag.value for tag in dataset_input.tags] == ["training"]
    assert mlflow.active_run() is None


@pytest.mark.usefixtures("workspace")
def test_opening_again_resumes_the_same_runs() -> None:
    first = open_mirror()
    first.start_trial(7, {"x": 1})
    first.end_trial(7, "FAIL", "killed")
    first.end_study("KILLED")
    first.close()

    again = open_mirror(space="trials: 99\n")
    assert again.run_id == first.run_id
    again.start_trial(7, {"x": 1})
    assert again.flush(10)
    [run] = trial_runs(again).values()
    assert run.info.status == "RUNNING"
    assert run.info.run_id == again.trial_run_id(7)
    again.close()
    client = MlflowClient()
    assert client.get_run(again.run_id).info.status == "RUNNING"
    space = client.download_artifacts(again.run_id, "space.yaml")
    assert Path(space).read_text() == "trials: 3\n"


@pytest.mark.usefixtures("workspace")
def test_another_study_of_the_same_name_has_its_own_run() -> None:
    mirrors = [open_mirror("id-1"), open_mirror("id-2")]
    assert mirrors[0].experiment_id == mirrors[1].experiment_id
    assert mirrors[0].run_id != mirrors[1].run_id
    with pytest.raises(LookupError, match="trial 0"):
        mirrors[1].trial_run_id(0)
    for mirror in mirrors:
        mirror.close()


@pytest.mark.usefixtures("workspace")
def test_values_that_are_not_finite_become_tags() -> None:
    mirror = open_mirror()
    mirror.start_trial(0, {})
    mirror.log_epoch(0, 3, {"a": float("nan"), "b": float("inf"), "c": -float("inf"), "d": 1.0})
    mirror.close()
    [run] = trial_runs(mirror).values()
    assert run.data.metrics == {"d": 1.0}
    assert run.data.tags["regsearch.non_finite.b"] == "inf at step 3"


@pytest.mark.usefixtures("workspace")
def test_a_large_update_goes_in_calls_that_a_server_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []

    def log_batch(_: str, metrics: Any, params: Any, tags: Any, synchronous: bool) -> None:
        assert synchronous  # whatever MLFLOW_ENABLE_ASYNC_LOGGING says
        sizes.append((len(metrics), len(params), len(tags)))

    runs = StudyRuns.open(connect(), "s", "id-1", DIGITS)
    monkeypatch.setattr(runs.client, "log_batch", log_batch)
    params = {f"p{i}": "1" for i in range(150)}
    points = tuple(Point("loss", 1.0, step, 0) for step in range(1_700))
    runs.send(RunUpdate(0, 0, params, {"t": "1"}, points))
    assert sizes == [(800, 100, 1), (800, 50, 0), (100, 0, 0)]


@pytest.mark.usefixtures("workspace")
def test_sending_an_update_again_changes_nothing() -> None:
    update = RunUpdate(
        trial=4,
        time_ms=1_000,
        params={f"p{i}": "1" for i in range(150)},
        tags={"t": "1"},
        metrics=tuple(Point("loss", 1.0, step, 1_500) for step in range(900)),
        status="FINISHED",
        end_time_ms=2_000,
    )
    for _ in range(2):  # the second time as after a crash: nothing is remembered
        runs = StudyRuns.open(connect(), "s", "id-1", DIGITS)
        runs.send(update)
    [run] = MlflowClient().search_runs([runs.experiment_id], "tags.`regsearch.kind` = 'trial'")
    assert (run.info.start_time, run.info.end_time, run.info.status) == (1_000, 2_000, "FINISHED")
    assert len(run.data.params) == 150
    assert [step for step, _ in curve(run, "loss")] == list(range(900))


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


def test_writes_outlast_an_outage_in_their_order() -> None:
    sent: list[int | None] = []
    attempts = iter([OSError("away"), MlflowException("away"), None, None, None])

    def send(update: RunUpdate) -> None:
        if error := next(attempts):
            raise error
        sent.append(update.trial)

    delivery = Delivery(send, is_final, linger_sec=0)
    for trial in (2, 1, 3):
        delivery.put(RunUpdate(trial, 0))
    assert delivery.flush(10)
    assert sent == [2, 1, 3]
    assert delivery.close(1).complete


def test_what_mlflow_refuses_is_reported_and_the_rest_delivered() -> None:
    sent: list[int | None] = []

    def send(update: RunUpdate) -> None:
        if update.trial == 1:
            raise MlflowException.invalid_parameter_value("Run is deleted")
        sent.append(update.trial)

    delivery = Delivery(send, is_final)
    for trial in (1, 2):
        delivery.put(RunUpdate(trial, 0))
    report = delivery.close(10)
    assert sent == [2]
    assert report.num_pending == 0
    assert report.refused == ("MlflowException: Run is deleted",)
    assert not report.complete


def test_closing_gives_up_when_mlflow_stays_away() -> None:
    def send(_: RunUpdate) -> None:
        raise ConnectionError("refused")

    delivery = Delivery(send, is_final)
    delivery.put(RunUpdate(None, 0))
    delivery.put(RunUpdate(1, 0))
    assert not delivery.flush(0.01)
    report = delivery.close(0.5)
    assert (report.num_pending, report.last_error) == (2, "ConnectionError: refused")
    for thread in threading.enumerate():
        if thread.name == "mlflow-delivery":
            thread.join(10)
            assert not thread.is_alive()


def test_a_call_that_hangs_holds_up_neither_training_nor_the_exit() -> None:
    hanging, answer = threading.Event(), threading.Event()

    def send(_: RunUpdate) -> None:
        hanging.set()
        assert answer.wait(60)

    delivery = Delivery(send, is_final, linger_sec=0)
    delivery.put(RunUpdate(1, 0))
    assert hanging.wait(10)
    delivery.put(RunUpdate(1, 1))
    assert delivery.close(0.1).num_pending == 2  # and so `close` came back before the call
    assert not answer.is_set()
    answer.set()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://bob:s3cret@db/mlflow", "postgresql://***@db/mlflow"),
        ("postgresql://bob:p@ss/w0rd@db/mlflow", "postgresql://***@db/mlflow"),
        ("https://t0ken@host:5000/x", "https://***@host:5000/x"),
        ("failed: 'mysql://a:b@h/d' (retry)", "failed: 'mysql://***@h/d' (retry)"),
        ("postgresql://db/x?user=bob&password=s3cret&ssl=1", None),
        ("sqlite:////home/me@work/mlflow.db", "sqlite:////home/me@work/mlflow.db"),
        ("http://localhost:5000", "http://localhost:5000"),
    ],
)
def test_no_password_is_shown(text: str, shown: str | None) -> None:
    assert redact(text) == (shown or "postgresql://db/x?user=bob&password=***&ssl=1")


def test_a_server_that_is_not_there_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening: connections are refused
        url = f"http://bob:s3cret@127.0.0.1:{taken.getsockname()[1]}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
        with pytest.raises(UserError, match="no MLflow store answers") as error:
            connect()
    assert "s3cret" not in str(error.value)


def test_a_store_is_not_made_where_one_is_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(UserError, match="there is no MLflow store"):
        connect(create=False)
    assert not (tmp_path / "mlflow.db").exists()


def test_optunas_database_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"sqlite:///{tmp_path}/optuna.db"
    storage = optuna.storages.RDBStorage(url)
    storage.remove_session()
    storage.engine.dispose()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
    with pytest.raises(UserError, match="holds Optuna's studies"):
        connect()


@pytest.mark.usefixtures("workspace")
def test_a_deleted_experiment_is_told_with_its_cure() -> None:
    mirror = open_mirror()
    mirror.close()
    MlflowClient().delete_experiment(mirror.experiment_id)
    with pytest.raises(UserError, match="mlflow experiments restore"):
        open_mirror()
