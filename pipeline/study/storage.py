"""The study's store: a relational database that every process of a study shares."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import UserError, redact

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

DEFAULT_STORAGE = "sqlite:///mlruns/optuna.db"
LOCK_TIMEOUT_SEC = 60.0


def open_storage(url: str) -> BaseStorage:
    """Open (and at first use make) the store.

    SQLite is put into WAL mode and waits for locks up to a minute. Tables are made under a file
    lock, since several processes may start at once.

    Args:
        url: an SQLAlchemy URL, such as `sqlite:///mlruns/optuna.db`.

    Raises:
        UserError: for a URL that can't be opened, or that of MLflow's own database: both keep their
            schema's version in a table of the same name.
    """
    from sqlalchemy.exc import SQLAlchemyError

    try:
        path = _sqlite_path(url)
        if path is None:
            return _connect(url, {})
        path.parent.mkdir(parents=True, exist_ok=True)
        with _file_lock(path.with_name(f"{path.name}.lock")):
            return _connect(url, {"connect_args": {"timeout": LOCK_TIMEOUT_SEC}})
    except (SQLAlchemyError, ImportError, OSError, RuntimeError, ValueError) as error:
        raise UserError(
            f"can't open the study's store {redact(url)}: {redact(str(error)).splitlines()[0]}",
            where="--storage",
            rule="an SQLAlchemy URL of a database that can be written",
            cure=f"check it, or leave it out to use {DEFAULT_STORAGE}",
        ) from None


def _connect(url: str, engine_options: dict[str, Any]) -> BaseStorage:
    from optuna.storages import RDBStorage
    from sqlalchemy import create_engine, event, inspect

    engine = create_engine(url, **engine_options)
    tables = inspect(engine).get_table_names()
    engine.dispose()
    if "experiments" in tables:
        raise UserError(
            f"the database {redact(url)} is MLflow's",
            where="--storage",
            rule="the study and MLflow have a database each",
            cure=f"give the study another, for instance {DEFAULT_STORAGE}",
        )
    storage = RDBStorage(url, engine_kwargs=engine_options)
    if storage.engine.dialect.name == "sqlite":
        event.listen(storage.engine, "connect", _tune_sqlite)
        storage.engine.dispose()
    return storage


def _tune_sqlite(connection: Any, _: Any) -> None:
    """WAL lets readers and a writer work at once; in it, NORMAL survives a killed process."""
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")


def _sqlite_path(url: str) -> Path | None:
    from sqlalchemy.engine import make_url

    parsed = make_url(url)
    is_file = parsed.get_backend_name() == "sqlite" and parsed.database
    return Path(str(parsed.database)) if is_file else None


@contextmanager
def _file_lock(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
