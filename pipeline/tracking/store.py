"""The way to an MLflow store: connect with clear errors, and keep passwords off the screen."""

from __future__ import annotations

import fcntl
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote

import alembic
import mlflow
import sqlalchemy as sql
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.store.db.db_types import DATABASE_ENGINES

from pipeline.errors import UserError, redact
from pipeline.tracking.moved import follow

# MLflow's own retries repeat a POST whose reply was lost, which makes a second run, and they block
# a call for two minutes. Delivery retries instead, and looks first whether the run is there.
_DEFAULTS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # at the end of each run
}
_FINAL_ERRORS = {"INVALID_PARAMETER_VALUE", "INVALID_STATE", "RESOURCE_DOES_NOT_EXIST"}
_PATIENCE_SEC, _RETRY_SEC = 20.0, 0.5
_FIRST_START = 0x6D6C666C  # names our advisory lock among others' in PostgreSQL

T = TypeVar("T")


def connect(*, create: bool = True) -> MlflowClient:
    """A client of MLflow's own choice of store, once that answers.

    It is `MLFLOW_TRACKING_URI`, else `mlflow.db` in the current folder. No other can be asked for:
    MLflow 3.17 looks a new model version's source up in that store, whatever the client's is.

    Args:
        create: make a local database that is not there yet (takes about three seconds). Any number
            of processes may do so at once.

    Raises:
        UserError: there is no such store, it does not answer, or it holds something else.
    """
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    # It tells of new tables, and prints a traceback for each error that it also raises.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    uri = mlflow.get_tracking_uri()
    try:
        if uri.partition(":")[0].partition("+")[0] in DATABASE_ENGINES:
            _prepare_database(sql.make_url(uri), create)
        client = MlflowClient(uri)
        client.search_experiments(max_results=1)
    except (
        MlflowException,
        sql.exc.SQLAlchemyError,
        alembic.util.CommandError,
        ModuleNotFoundError,
        OSError,
    ) as error:
        raise _no_answer(uri, error) from None
    return client


def patiently(work: Callable[[], T]) -> T:
    """Does what may be done again, and does so while MLflow is busy or away for a moment.

    Raises:
        UserError: it stays away.
        MlflowException: it refuses.
    """
    deadline = time.monotonic() + _PATIENCE_SEC
    while True:
        try:
            return work()
        except (MlflowException, OSError) as error:
            if is_final(error):
                raise
            if time.monotonic() > deadline:
                raise _no_answer(mlflow.get_tracking_uri(), error) from None
        time.sleep(_RETRY_SEC)


def is_final(error: Exception) -> bool:
    """Whether MLflow will refuse the same write for ever, rather than be away for a while."""
    if isinstance(error, MlflowException):
        return error.error_code in _FINAL_ERRORS
    return not isinstance(error, OSError | sql.exc.SQLAlchemyError)


def _no_answer(uri: str, error: Exception) -> UserError:
    reason = redact(str(error)).partition("\n")[0]
    given = bool(os.environ.get("MLFLOW_TRACKING_URI"))
    server = "start that server" if uri.startswith(("http://", "https://")) else "mend that store"
    return UserError(
        f"no MLflow store answers at {redact(uri)}: {reason}",
        where="MLFLOW_TRACKING_URI" if given else "mlflow.db in this folder",
        cure=f"{server}, or unset the variable to use mlflow.db in this folder"
        if given
        else "move it away, and `regsearch sync` fills a new one from the studies here; or set "
        "MLFLOW_TRACKING_URI to another store",
    )


def _prepare_database(url: sql.URL, create: bool) -> None:
    """Fails at once where MLflow would retry for minutes, or add its tables to Optuna's."""
    file = _sqlite_file(url)
    if file is not None and not file.exists():
        if not create:
            raise UserError(
                f"there is no MLflow store at {redact(str(url))}",
                where="MLFLOW_TRACKING_URI",
                cure="go to the folder of the search, or set the variable to the store it wrote to",
            )
        _make_file(url, file)
    if file is not None:
        follow(file)
    engine = sql.create_engine(url)
    tables = set(sql.inspect(engine).get_table_names())
    engine.dispose()
    if "studies" in tables:
        raise UserError(
            f"the database at {redact(str(url))} holds Optuna's studies",
            where="MLFLOW_TRACKING_URI",
            rule="Optuna and MLflow need a database each",
            cure="name another database for one of the two",
        )
    if url.get_backend_name() == "postgresql" and "experiments" not in tables:
        _make_tables(url)


def _make_file(url: sql.URL, file: Path) -> None:
    """Makes the database beside its place, by one process of many, and moves it there when ready.

    MLflow's own migrations stumble over each other when two processes start, and over what a killed
    one left half-done.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with _locked(file.with_name(f"{file.name}.lock")):
        if file.exists():
            return
        new = file.with_name(f"{file.name}.new")
        new.unlink(missing_ok=True)  # a killed one's; its journal SQLite drops by itself
        _initialize(sql.URL.create(url.drivername, database=str(new.absolute())))
        new.replace(file)


def _make_tables(url: sql.URL) -> None:
    """One process at a time, as above; here a killed one's half of the work is rolled back."""
    engine = sql.create_engine(url)
    try:
        with engine.connect() as connection:  # the lock ends with the connection
            connection.execute(sql.text(f"SELECT pg_advisory_lock({_FIRST_START})"))
            _initialize(url)
    finally:
        engine.dispose()


def _initialize(url: sql.URL) -> None:
    MlflowClient(url.render_as_string(hide_password=False)).search_experiments(max_results=1)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _sqlite_file(url: sql.URL) -> Path | None:
    """The database's file; `None` for one in memory or on a server."""
    database = url.database or ""
    if url.get_backend_name() != "sqlite" or database in ("", ":memory:"):
        return None
    if database.startswith("file:"):  # SQLite's own URI, `sqlite:///file:/x/mlflow.db?uri=true`
        path = unquote(database.removeprefix("file:").partition("?")[0])
        return None if path in ("", ":memory:") or url.query.get("mode") == "memory" else Path(path)
    return Path(database)
