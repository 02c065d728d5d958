"""MLflow on a server: lost answers, outages, two deliverers at once (contract rows 17 to 19)."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from pipeline.events import StudyEnded, StudyStarted
from tests.conftest import enter
from tests.mirrors import (
    all_runs,
    curve,
    deliver,
    epoch,
    lived,
    open_mirror,
    picture,
    started,
    trial_runs,
    write,
)
from tests.mlflow_server import LosingProxy, Server
from tests.template import forked_at_once


@pytest.fixture(scope="module")
def shared_server(
    tmp_path_factory: pytest.TempPathFactory, mlflow_template: Path
) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("mlflow-server")
    shutil.copy(mlflow_template, folder)
    server = Server(folder)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def server(
    shared_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Server]:
    """The server, running, with the studies of one test alone, which is in an empty folder."""
    enter(monkeypatch, tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", shared_server.url)
    yield shared_server
    if shared_server.process is None:
        shared_server.start()
    client = MlflowClient(shared_server.url)
    for experiment in client.search_experiments(filter_string="name LIKE 'my study%'"):
        client.rename_experiment(experiment.experiment_id, f"done {tmp_path}")


@pytest.mark.usefixtures("server")
def test_a_study_on_a_server_and_again_changes_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    story = [StudyStarted(1), *lived(0), *lived(1), StudyEnded("FINISHED", 9)]
    assert deliver(events=story).complete
    before = picture()
    assert [run.info.status for run in all_runs()] == ["FINISHED"] * 3
    assert curve(trial_runs()[1]) == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    for saved in Path().rglob("delivered-*.json"):
        saved.unlink()
    assert deliver().complete
    assert picture() == before
    assert capfd.readouterr().out == ""  # MLflow would print a link for each run that ends


def test_a_lost_answer_makes_no_second_run(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Contract row 19: MLflow made the run, but nobody was told so."""
    proxy = LosingProxy(server.port, "/runs/create", num_lost=3)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", proxy.url)
    assert deliver(events=[*lived(0), *lived(1)]).complete
    assert proxy.num_lost == 0
    proxy.close()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
    assert len(all_runs()) == 3
    assert {number: len(curve(run)) for number, run in trial_runs().items()} == {0: 3, 1: 3}


def test_a_lost_answer_to_points_makes_no_second_point(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = LosingProxy(server.port, "/runs/log-batch", num_lost=2)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", proxy.url)
    assert deliver(events=lived(0)).complete
    assert proxy.num_lost == 0
    proxy.close()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
    assert curve(trial_runs()[0]) == [(1, 1.0), (2, 0.5), (3, 1 / 3)]


def test_all_arrives_after_an_outage(server: Server) -> None:
    """Contract row 17; what is written meanwhile waits in the journal, and nobody for MLflow."""
    mirror = open_mirror()
    write([started(0, x=0), epoch(0, 1, 1.0)])
    assert mirror.flush(60)
    server.stop()
    write(lived(0)[2:])
    write(lived(1))
    assert not mirror.flush(1)
    assert not mirror.answers()
    server.start()
    assert mirror.flush(120)
    assert mirror.answers()
    assert mirror.close(60).complete
    assert {number: len(curve(run)) for number, run in trial_runs().items()} == {0: 3, 1: 3}


def test_a_server_that_never_comes_back_keeps_nobody_and_another_gets_everything(
    server: Server, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Contract row 18."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
    mirror = open_mirror()
    write(lived(0))
    assert mirror.flush(60)
    server.stop()
    write([*lived(1), StudyEnded("FINISHED", 9)])
    report = mirror.close(1)
    assert report.num_pending == 6
    assert "refused" in report.last_error

    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert deliver().complete
    assert {number: len(curve(run)) for number, run in trial_runs().items()} == {0: 3, 1: 3}
    assert (workspace / "mlflow.db").exists()


def test_a_server_that_hangs_keeps_nobody(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "3600")  # whoever waits for it, waits long
    mirror = open_mirror()
    server.freeze()
    write(lived(0))
    assert not mirror.flush(0.5)
    assert mirror.close(0.5).num_pending == 5
    server.stop()  # which ends the call
    mirror._delivery._thread.join(60)
    assert not mirror._delivery._thread.is_alive()


def deliver_in_a_process() -> None:
    mirror = open_mirror()
    assert mirror.flush(120)
    report = mirror.close(60)
    print(mirror.run_id, report.complete, report)


def deliver_at_once(num_processes: int) -> list[list[str]]:
    processes = forked_at_once(deliver_in_a_process, [()] * num_processes)
    answers = [process.communicate(timeout=250)[0].split() for process in processes]
    assert all(process.returncode == 0 for process in processes)
    return answers


@pytest.mark.parametrize("where", ["server", "workspace"])
def test_two_deliverers_of_one_study_make_each_run_once(
    where: str, request: pytest.FixtureRequest
) -> None:
    request.getfixturevalue(where)
    story = [event for trial in range(12) for event in lived(trial)]
    write([StudyStarted(1), *story, started(12), epoch(12, 1), StudyEnded("FINISHED", 9)])
    answers = deliver_at_once(2)
    assert [answer[1] for answer in answers] == ["True", "True"], answers
    runs = all_runs()
    assert len(runs) == 14
    assert len({answer[0] for answer in answers}) == 1
    assert {number: len(curve(run)) for number, run in trial_runs().items()} == {
        **dict.fromkeys(range(12), 3),
        12: 1,
    }
    assert [run.info.status for _, run in sorted(trial_runs().items())] == [
        *["FINISHED"] * 12,
        "RUNNING",
    ]
