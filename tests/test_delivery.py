"""The thread that takes the journal to MLflow outlasts MLflow being away, and forgets nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException

from pipeline.events import Event, StudyEnded, StudyStarted
from pipeline.journal import JournalWriter
from pipeline.tracking.delivery import Delivery
from pipeline.tracking.positions import load_positions
from pipeline.tracking.store import is_final
from pipeline.tracking.updates import RunUpdate
from tests.mirrors import epoch, lived, started

Send = Callable[[RunUpdate], None]


@contextmanager
def delivering(folder: Path, send: Send, saved: Path | None = None) -> Iterator[Delivery]:
    delivery = Delivery(folder, saved or folder / "delivered-1.json", send, is_final, poll_sec=0.05)
    delivery.start()
    yield delivery
    delivery.close(60)


def write(folder: Path, *events: Event) -> Path:
    writer = JournalWriter(folder)
    for event in events:
        writer.put(event)
    writer.close()
    return max(folder.glob("*.jsonl"))


def away(_: RunUpdate) -> None:
    raise ConnectionError("refused")


def test_what_any_process_writes_arrives_without_asking(tmp_path: Path) -> None:
    sent: list[int | None] = []
    arrived = threading.Semaphore(0)

    def send(update: RunUpdate) -> None:
        sent.append(update.trial)
        arrived.release()

    with delivering(tmp_path / "later", send):
        for trial in (1, 2):
            write(tmp_path / "later", started(trial))
            assert arrived.acquire(timeout=60)
    assert sent == [1, 2]


def test_events_that_piled_up_go_together(tmp_path: Path) -> None:
    sent: list[RunUpdate] = []
    write(tmp_path, *lived(1), StudyStarted(1), *lived(2))
    with delivering(tmp_path, sent.append) as delivery:
        assert delivery.flush(60)
    assert [update.trial for update in sent] == [None, 1, 2]
    assert [len(update.metrics) for update in sent] == [0, 3, 3]


def test_writes_outlast_an_outage(tmp_path: Path) -> None:
    sent: list[int | None] = []
    attempts = iter([OSError("away"), MlflowException("away"), None, None, None])

    def send(update: RunUpdate) -> None:
        if error := next(attempts):
            raise error
        sent.append(update.trial)

    write(tmp_path, *(started(trial) for trial in (2, 1, 3)))
    with delivering(tmp_path, send) as delivery:
        assert delivery.flush(60)
        assert sorted(sent, key=str) == [1, 2, 3]
        report = delivery.close(60)
    assert report.complete
    assert report.last_error == "MlflowException: away"


def test_one_run_that_mlflow_stumbles_over_holds_up_no_other(tmp_path: Path) -> None:
    sent: list[int | None] = []
    arrived = threading.Event()

    def send(update: RunUpdate) -> None:
        if update.trial == 1:
            raise MlflowException("internal error")
        sent.append(update.trial)
        if update.trial == 3:
            arrived.set()

    write(tmp_path, started(1), started(2))
    with delivering(tmp_path, send) as delivery:
        assert not delivery.flush(1)
        write(tmp_path, started(3))
        assert arrived.wait(60)
        report = delivery.close(0.5)
    assert sent == [2, 3]
    assert report.num_pending == 3  # how far it came is told only when all before is taken
    assert load_positions(tmp_path / "delivered-1.json") == {}


def test_what_mlflow_refuses_is_told_once_and_the_rest_delivered(tmp_path: Path) -> None:
    sent: list[int | None] = []

    def send(update: RunUpdate) -> None:
        if update.trial == 1:
            raise MlflowException.invalid_parameter_value("no: http://bob:s3cret@host/x")
        sent.append(update.trial)

    write(tmp_path, started(1), started(2))
    with delivering(tmp_path, send) as delivery:
        assert delivery.flush(60)
        write(tmp_path, epoch(1, 1))
        report = delivery.close(60)
    assert sent == [2]
    assert report.num_pending == 0
    assert report.refused == ("MlflowException: no: http://***@host/x",)
    assert not report.complete


def test_closing_gives_up_when_mlflow_stays_away_and_another_time_all_arrives(
    tmp_path: Path,
) -> None:
    write(tmp_path, *lived(1), StudyEnded("FINISHED", 9))
    with delivering(tmp_path, away) as delivery:
        assert not delivery.flush(0.1)
        report = delivery.close(0.5)
        delivery._thread.join(60)
        assert not delivery._thread.is_alive()
        assert not delivery.flush(60)  # it is over: this doesn't wait
    assert (report.num_pending, report.last_error) == (6, "ConnectionError: refused")
    assert not report.complete

    sent: list[RunUpdate] = []
    with delivering(tmp_path, sent.append) as delivery:
        assert delivery.close(60).complete
    assert {update.trial: len(update.metrics) for update in sent} == {1: 3, None: 0}


def test_a_call_that_hangs_holds_up_neither_flush_nor_close(tmp_path: Path) -> None:
    hanging, answer = threading.Event(), threading.Event()

    def send(_: RunUpdate) -> None:
        hanging.set()
        assert answer.wait(200)

    write(tmp_path, started(1))
    with delivering(tmp_path, send) as delivery:
        assert hanging.wait(60)
        write(tmp_path, epoch(1, 1))
        assert not delivery.flush(0.1)
        assert delivery.close(0.1).num_pending == 2  # so `close` came back before the call
        assert not answer.is_set()
        assert delivery._thread.daemon  # nor does the thread keep the process
        answer.set()


def test_a_later_process_goes_on_where_the_first_one_was(tmp_path: Path) -> None:
    sent: list[RunUpdate] = []
    write(tmp_path, *lived(1))
    with delivering(tmp_path, sent.append) as delivery:
        assert delivery.close(60).complete
    write(tmp_path, started(2))
    with delivering(tmp_path, sent.append) as delivery:
        assert delivery.close(60).complete
    assert [update.trial for update in sent] == [1, 2]
    with delivering(tmp_path, sent.append, saved=tmp_path / "delivered-2.json") as delivery:
        assert delivery.close(60).complete  # another MLflow store has nothing yet
    assert [update.trial for update in sent] == [1, 2, 1, 2]
    names = {path.name for path in tmp_path.iterdir() if path.suffix != ".jsonl"}
    assert names == {"delivered-1.json", "delivered-2.json"}


def test_what_cannot_be_remembered_is_delivered_all_the_same(tmp_path: Path) -> None:
    sent: list[RunUpdate] = []
    write(tmp_path, *lived(1))
    with delivering(tmp_path, sent.append, saved=tmp_path / "no folder" / "x") as delivery:
        report = delivery.close(60)
    assert report.complete
    assert "No such file or directory" in report.last_error
    assert len(sent) == 1


def test_a_journal_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    sent: list[RunUpdate] = []
    write(tmp_path, *lived(1))
    blocked = tmp_path / "zzz.jsonl"
    blocked.mkdir()
    with delivering(tmp_path, sent.append) as delivery:
        assert not delivery.flush(0.5)
        assert "zzz.jsonl" in delivery._last_error
        blocked.rmdir()
        assert delivery.flush(60)
    assert len(sent) == 1


def test_damaged_lines_are_counted(tmp_path: Path) -> None:
    path = write(tmp_path, *lived(1))
    path.write_bytes(path.read_bytes().replace(b"0.5", b"0.6"))
    with delivering(tmp_path, lambda _: None) as delivery:
        report = delivery.close(60)
    assert (report.complete, report.num_damaged) == (True, 1)


def test_whether_mlflow_answers_is_known_without_asking_it(tmp_path: Path) -> None:
    is_away = threading.Event()

    def send(update: RunUpdate) -> None:
        if is_away.is_set():
            away(update)

    with delivering(tmp_path, send) as delivery:
        write(tmp_path, started(1))
        assert delivery.flush(60)
        assert delivery.gets_on
        is_away.set()
        write(tmp_path, started(2))
        assert not delivery.flush(1)
        assert not delivery.gets_on
        is_away.clear()
        assert delivery.flush(60)
        assert delivery.gets_on


def test_a_call_that_hangs_is_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.tracking.delivery._SILENCE_SEC", 0.5)
    hanging, answer = threading.Event(), threading.Event()

    def send(_: RunUpdate) -> None:
        hanging.set()
        assert answer.wait(200)

    write(tmp_path, started(1))
    with delivering(tmp_path, send) as delivery:
        assert hanging.wait(60)
        assert not delivery.flush(1)
        assert not delivery.gets_on
        answer.set()
