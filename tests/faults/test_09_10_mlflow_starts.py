"""Contract rows 9 and 10 for MLflow's own store: first starts at once, and two databases."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.errors import UserError
from pipeline.study.storage import open_storage
from pipeline.tracking import connect
from tests.faults.conftest import new_database
from tests.mirrors import start_eight


def test_eight_processes_start_on_an_empty_postgresql(
    postgres: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", new_database(postgres))
    codes, complaints = start_eight()
    assert codes.strip() == str([0] * 8), complaints


def test_optuna_and_mlflow_refuse_each_others_postgresql(
    postgres: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    optunas, mlflows = new_database(postgres), new_database(postgres)
    open_storage(optunas).engine.dispose()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", optunas)
    with pytest.raises(UserError, match="holds Optuna's studies"):
        connect()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflows)
    connect()
    with pytest.raises(UserError, match="is MLflow's"):
        open_storage(mlflows)
