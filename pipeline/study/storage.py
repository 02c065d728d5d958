"""The study's store: a relational database that every process of a study shares."""

from __future__ import annotations

import fcntl
import logging
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import UserError, redact
from pipeline.places import DEFAULT_STORAGE

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection, Engine

    from pipeline.study.store import Store

LOCK_TIMEOUT_SEC = 60.0
"""How long the opening waits for a locked SQLite; what comes later is as patient as `Store`."""
BUSY_SEC = 2.0
"""How long SQLite itself waits for a lock, deaf to signals; then it is tried again."""
CONNECT_SEC = 10
"""How long a PostgreSQL server may take to answer a new connection, where the URL doesn't say; the
system would wait for minutes, deaf to signals."""
RETRY_SEC = 0.5
_LIBPQ = ("psycopg", "psycopg2")
_FIRST_START = 0x72656773  # names our advisory lock among others' in PostgreSQL


def open_storage(
    url: str, *, create: bool = True, patience_sec: float = 0.0, upgrade: bool = False
) -> Store:
    """Open (and at first use make) the store.

    SQLite is put into WAL mode and takes its write lock when a
    transaction begins: one that reads first and writes later would fail at once where it should
    wait. Tables are made under a lock, since several processes may start at once.

    Args:
        url: an SQLAlchemy URL, such as `sqlite:///mlruns/optuna.db`.
        create: make a database file that isn't there yet.
        patience_sec: how long to wait for a server that does not answer: for processes that know
            it has answered before.
        upgrade: bring the tables of an older Optuna up to date, rather than refuse them.

    Raises:
        UserError: for a URL that can't be opened, or that of MLflow's own database: both keep their
            schema's version in a table of the same name.
    """
    with _told(url):
        path = _sqlite_path(url)
        if path is None:
            return _patiently(lambda: _open_server(url, upgrade), patience_sec)
        if not create and not path.exists():
            raise UserError(
                f"there is no store at {redact(url)}",
                where="--storage",
                cure="go to the folder of the search, or name the store it wrote to",
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        with file_lock(path.with_name(f"{path.name}.lock")):
            options = {"connect_args": {"timeout": BUSY_SEC}}
            patience_sec = max(patience_sec, LOCK_TIMEOUT_SEC)
            return _patiently(lambda: _connect(url, options, upgrade), patience_sec, "locked")


def check_url(url: str) -> None:
    """Raise a `UserError` for what names no store that could be opened; nothing is opened."""
    with _told(url):
        _sqlite_path(url)


@contextmanager
def _told(url: str) -> Iterator[None]:
    """What goes wrong with a store, as a `UserError`."""
    from optuna.exceptions import OptunaError
    from sqlalchemy.exc import SQLAlchemyError

    errors = (SQLAlchemyError, OptunaError, ImportError, OSError, RuntimeError, ValueError)
    try:
        yield
    except errors as error:
        raise UserError(
            f"can't open the study's store {redact(url)}: {redact(str(error)).splitlines()[0]}",
            where="--storage",
            rule="an SQLAlchemy URL of an SQLite or PostgreSQL database that can be written",
            cure=_cure(error, url),
        ) from None


def _cure(error: Exception, url: str) -> str:
    if "no longer compatible" in str(error):
        return "`regsearch doctor --fix` brings its tables up to date; make a copy first"
    if url == DEFAULT_STORAGE:
        return "restore it from a copy, or move it away to begin anew"
    return f"check it, or leave it out to use {DEFAULT_STORAGE}"


def _patiently(attempt: Callable[[], Store], patience_sec: float, sign: str = "") -> Store:
    """Try again while the server is away, or cuts connections because it restarts.

    Args:
        sign: what an error says that is worth another try; any, when empty.
    """
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import DBAPIError, PendingRollbackError

    deadline = time.monotonic() + patience_sec
    while True:
        try:
            return attempt()
        except (StorageInternalError, DBAPIError, PendingRollbackError) as error:
            told = f"{error} {error.__cause__}"
            if sign not in told or time.monotonic() > deadline:
                raise
        time.sleep(RETRY_SEC)


def _open_server(url: str, upgrade: bool) -> Store:
    """A PostgreSQL store; its connections are tried before use, for servers restart."""
    from sqlalchemy import create_engine, make_url, text

    parsed = make_url(url)
    is_open = parsed.get_driver_name() in _LIBPQ and "connect_timeout" not in parsed.query
    own = {"connect_timeout": CONNECT_SEC} if is_open else {}
    engine = create_engine(url, connect_args=own)
    try:
        with engine.connect() as connection:  # the lock ends with the connection
            connection.execute(text(f"SELECT pg_advisory_lock({_FIRST_START})"))
            return _connect(url, {"pool_pre_ping": True, "connect_args": own}, upgrade)
    finally:
        engine.dispose()


def _connect(url: str, engine_kwargs: dict[str, Any], upgrade: bool) -> Store:
    from sqlalchemy import create_engine, event, inspect

    from pipeline.study.store import Store

    engine = create_engine(url, **engine_kwargs)
    tables = inspect(engine).get_table_names()
    engine.dispose()
    if "experiments" in tables:
        raise UserError(
            f"the database {redact(url)} is MLflow's",
            where="--storage",
            rule="the study and MLflow have a database each",
            cure=f"give the study another, for instance {DEFAULT_STORAGE}",
        )
    store = Store(url, engine_kwargs, skip_compatibility_check=upgrade)
    if upgrade and store.get_current_version() != store.get_head_version():
        store.upgrade()
    sqlite = store.engine.dialect.name == "sqlite"
    event.listen(store.engine, "connect", _tune_sqlite if sqlite else _tune_postgresql)
    if sqlite:
        _begin_as_writer(store.engine, store)
    pool = type(store.engine.pool)
    logging.getLogger(f"{pool.__module__}.{pool.__qualname__}").addFilter(_is_news)
    store.engine.dispose()
    # Its last connection, closed in good order, takes SQLite's log of writes into the one file.
    weakref.finalize(store, store.engine.dispose)
    return store


def _is_news(record: logging.LogRecord) -> bool:
    """All but the traceback that SQLAlchemy prints for a cursor that won't close because the
    program was interrupted: it raises what interrupted it, too."""
    return record.getMessage() != "Error closing cursor"


def _tune_sqlite(connection: Any, _: Any) -> None:
    """WAL lets readers and a writer work at once; in it, NORMAL survives a killed process."""
    connection.isolation_level = None  # the driver begins no transactions: `_begin_as_writer` does
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")


def _begin_as_writer(engine: Engine, store: Store) -> None:
    from sqlalchemy import event

    def begin(connection: Connection) -> None:
        reads = getattr(store.mode, "reads", False)
        connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")

    event.listen(engine, "begin", begin)


def _tune_postgresql(connection: Any, _: Any) -> None:
    """Heartbeats are kept without a time zone: all sessions must mean the same one."""
    connection.autocommit = True  # what is set in a transaction goes with its rollback
    with connection.cursor() as cursor:
        cursor.execute("SET TIME ZONE 'UTC'")
    connection.autocommit = False


def _sqlite_path(url: str) -> Path | None:
    """The file of a SQLite store; None for a PostgreSQL server's."""
    from sqlalchemy.engine import make_url

    parsed = make_url(url)
    if parsed.get_backend_name() == "postgresql":
        return None
    if parsed.get_backend_name() != "sqlite":
        raise ValueError(f"{parsed.get_backend_name()} is not supported")
    if parsed.database in (None, "", ":memory:"):
        raise ValueError("it names no file, and workers could not share the study")
    return Path(str(parsed.database))


@contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """Held by one process at a time; a killed one's is free at once."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
