"""The study's store: first start, SQLite's modes, and errors without secrets."""

from __future__ import annotations

import socket
import sys
from contextlib import closing
from pathlib import Path

import pytest
from optuna.storages import RDBStorage
from sqlalchemy import text

from pipeline.errors import UserError
from pipeline.study.storage import open_storage
from tests.template import forked_at_once

ROOT = Path(__file__).parents[1]


def test_sqlite_lets_readers_work_beside_a_writer(tmp_path: Path) -> None:
    storage = open_storage(f"sqlite:///{tmp_path}/new/folder/optuna.db")
    assert isinstance(storage, RDBStorage)
    with storage.engine.connect() as connection:
        assert connection.execute(text("PRAGMA journal_mode")).scalar() == "wal"
        assert connection.execute(text("PRAGMA synchronous")).scalar() == 1  # NORMAL
        assert connection.execute(text("PRAGMA busy_timeout")).scalar() == 2_000


def test_a_cursor_that_does_not_close_is_no_traceback_on_the_screen(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As when a signal interrupts a query: SQLAlchemy would log it, beside what it raises."""

    class Interrupted:
        def close(self) -> None:
            raise RuntimeError("the cursor is in use")

    engine = open_storage(f"sqlite:///{tmp_path}/optuna.db").engine
    with engine.connect() as connection:
        connection._safe_close_cursor(Interrupted())  # type: ignore[arg-type]
    assert caplog.records == []


def test_processes_that_start_at_once_all_get_the_store(tmp_path: Path) -> None:
    processes = forked_at_once(open_in_a_process, [(str(tmp_path),)] * 4)
    assert [process.communicate() for process in processes] == [("", "")] * 4
    assert [process.wait() for process in processes] == [0] * 4


def open_in_a_process() -> None:
    open_storage(f"sqlite:///{sys.argv[1]}/optuna.db").get_all_studies()


@pytest.mark.parametrize("spelling", ["mlflow.db", "./mlflow.db", "sub/../mlflow.db"])
def test_mlflows_own_database_is_refused_and_left_alone(workspace: Path, spelling: str) -> None:
    (workspace / "sub").mkdir()
    before = (workspace / "mlflow.db").read_bytes()
    with pytest.raises(UserError, match=r"is MLflow's"):
        open_storage(f"sqlite:///{spelling}")
    assert (workspace / "mlflow.db").read_bytes() == before


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://user:canary@localhost:1/none",
        "nonsense://user:canary@nowhere/x",
        "not a url canary",
        "sqlite:///:memory:",
        "sqlite://",
        "sqlite:////proc/canary/optuna.db",
    ],
)
def test_a_store_that_cannot_be_opened_is_told_without_its_password(url: str) -> None:
    with pytest.raises(UserError) as error:
        open_storage(url)
    assert "can't open the study's store" in str(error.value)
    if ":canary@" in url:
        assert "canary" not in str(error.value)


def test_a_server_that_takes_a_connection_and_says_nothing_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pipeline.study.storage.CONNECT_SEC", 2)  # libpq knows no less
    with socket.create_server(("127.0.0.1", 0)) as mute:
        url = f"postgresql+psycopg://me@127.0.0.1:{mute.getsockname()[1]}/study"
        with pytest.raises(UserError, match=r"can't open the study's store.*timeout"):
            open_storage(url)
        monkeypatch.setattr("pipeline.study.storage.CONNECT_SEC", 9999)
        with pytest.raises(UserError, match="timeout"):
            open_storage(f"{url}?connect_timeout=2")


def test_tables_of_an_older_optuna_are_refused_with_the_cure_and_upgraded_when_asked(
    tmp_path: Path,
) -> None:
    """The version is set back; the tables, which did not change since, are left."""
    url = f"sqlite:///{tmp_path}/optuna.db"
    with closing(open_storage(url)) as store:
        head = store.get_head_version()
        older = store.get_all_versions()[1]
        with store.engine.begin() as connection:
            connection.execute(text("UPDATE alembic_version SET version_num = :v"), {"v": older})
    with pytest.raises(UserError, match="doctor --fix"):
        open_storage(url)
    with closing(open_storage(url, upgrade=True)) as store:
        assert store.get_current_version() == head
    open_storage(url).close()
