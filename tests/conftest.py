"""What the tests share: a folder to work in, with an MLflow store that costs no seconds to make."""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import alembic.util
import pytest
import torch

from pipeline.study.storage import file_lock
from pipeline.tracking import connect

ROOT = Path(__file__).parents[1]
_MLFLOW_VARIABLES = ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "MLFLOW_RUN_ID")


def pytest_configure(config: pytest.Config) -> None:
    # Processes that tests start load this checkout, from whatever folder.
    paths = (str(ROOT), os.environ.get("PYTHONPATH", ""))
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    torch.set_num_threads(1)  # the nets here are tiny: more threads cost seconds on a busy machine
    _load_migrations_once()
    # MLflow 3.17 warns of its own type hints, and asks SQLAlchemy 2.1 for what 2.1 deprecates.
    config.addinivalue_line("filterwarnings", "ignore:.*Any type hint is inferred:UserWarning")
    config.addinivalue_line("filterwarnings", "ignore:The ..noload.. loader:DeprecationWarning")
    # torch 2.11's compiler warns of torch's own functions.
    config.addinivalue_line("filterwarnings", "ignore:.torch.jit:DeprecationWarning")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


def _load_migrations_once() -> None:
    """Alembic executes every migration of Optuna's and MLflow's whenever a store is opened: the
    better part of a second. What it finds in them is the same each time."""
    load = alembic.util.load_python_file
    load_once = functools.cache(load)

    def load_python_file(folder: Any, name: Any) -> ModuleType:
        return load(folder, name) if name == "env.py" else load_once(folder, name)

    alembic.util.load_python_file = load_python_file


@pytest.fixture(scope="session")
def mlflow_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow database, made once for all processes of the tests."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # whose own folder is in that of all
        folder = folder.parent
    folder = folder / "mlflow-template"
    folder.mkdir(exist_ok=True)
    with file_lock(folder / "lock"), pytest.MonkeyPatch.context() as patch:
        enter(patch, folder)
        connect()
    return folder / "mlflow.db"


@pytest.fixture(scope="module")
def lasting_workspace(
    tmp_path_factory: pytest.TempPathFactory, mlflow_template: Path
) -> Iterator[Path]:
    """A `workspace` that all tests of a file share."""
    folder = tmp_path_factory.mktemp("workspace")
    shutil.copy(mlflow_template, folder)
    with pytest.MonkeyPatch.context() as patch:
        enter(patch, folder)
        yield folder


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mlflow_template: Path) -> Path:
    """The current folder: empty but for a fresh `mlflow.db`, which MLflow uses by default."""
    shutil.copy(mlflow_template, tmp_path)
    enter(monkeypatch, tmp_path)
    return tmp_path


def enter(patch: pytest.MonkeyPatch, folder: Path) -> None:
    """Makes it the current folder, and MLflow's choice of store its default."""
    for name in _MLFLOW_VARIABLES:
        patch.delenv(name, raising=False)
    patch.chdir(folder)
