"""The way to MLflow's store: first starts, databases of others, clear errors without passwords."""

from __future__ import annotations

import shutil
import socket
import sqlite3
from pathlib import Path

import optuna
import pytest

from pipeline.errors import UserError, redact
from pipeline.study.storage import open_storage
from pipeline.tracking import connect
from tests.conftest import enter
from tests.mirrors import open_mirror, start_eight
from tests.template import forked


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


@pytest.mark.parametrize(
    "form", ["sqlite:///{}", "sqlite:///file:{}?uri=true", "sqlite+pysqlite:///{}?timeout=60"]
)
def test_optunas_database_is_refused(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "optuna.db"
    enter(monkeypatch, tmp_path)
    storage = optuna.storages.RDBStorage(f"sqlite:///{path}")
    storage.remove_session()
    storage.engine.dispose()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", form.format(path))
    with pytest.raises(UserError, match="holds Optuna's studies"):
        connect()
    with sqlite3.connect(path) as database:
        tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master")}
    database.close()
    assert "experiments" not in tables
    assert list(tmp_path.iterdir()) == [path]


def test_mlflows_database_is_refused_to_optuna(workspace: Path) -> None:
    with pytest.raises(UserError, match="is MLflow's"):
        open_storage(f"sqlite:///{workspace}/mlflow.db")


def test_eight_processes_start_in_an_empty_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    enter(monkeypatch, tmp_path)
    codes, complaints = start_eight()
    assert codes.strip() == str([0] * 8), complaints
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mlflow.db", "mlflow.db.lock"]


def leave_half_made(file: Path) -> None:
    """A database and its journal as of a process that was killed within a transaction."""
    source = file.with_name("source")
    with sqlite3.connect(source) as database:
        database.execute("CREATE TABLE experiments (name)")
        database.execute("PRAGMA cache_size = 1")  # what is not yet committed goes to the disk
        database.executemany("INSERT INTO experiments VALUES (?)", [("x" * 500,)] * 500)
        shutil.copy(source, file)
        shutil.copy(f"{source}-journal", f"{file}-journal")
    database.close()
    source.unlink()


def test_a_database_that_a_killed_process_left_half_made_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    enter(monkeypatch, tmp_path)
    with forked(connect) as process:
        while not (tmp_path / "mlflow.db.new").exists():
            assert process.poll() is None
        process.kill()
    assert not (tmp_path / "mlflow.db").exists()
    leave_half_made(tmp_path / "mlflow.db.new")
    connect()
    assert open_mirror().close(60).complete
