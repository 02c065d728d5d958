"""The way to an MLflow store: connect with clear errors, and keep passwords off the screen."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import mlflow
import sqlalchemy as sql
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from pipeline.errors import UserError, redact

# MLflow's own retries repeat a POST whose reply was lost, which makes a second run, and they block
# a call for two minutes. Delivery retries instead, and looks first whether the run is there.
_DEFAULTS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}


def connect(*, create: bool = True) -> MlflowClient:
    """A client of MLflow's own choice of store, once that answers.

    It is `MLFLOW_TRACKING_URI`, else `mlflow.db` in the current folder. No other can be asked for:
    MLflow 3.17 looks a new model version's source up in that store, whatever the client's is.

    Args:
        create: make a local database that is not there yet (takes about three seconds).

    Raises:
        UserError: there is no such store, it does not answer, or it holds something else.
    """
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    # It tells of new tables, and prints a traceback for each error that it also raises.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    uri = mlflow.get_tracking_uri()
    try:
        if "://" in uri and not uri.startswith(("http:", "https:", "file:")):
            _check_database(uri, create)
        client = MlflowClient(uri)
        client.search_experiments(max_results=1)
    except (MlflowException, sql.exc.SQLAlchemyError, ModuleNotFoundError, OSError) as error:
        reason = redact(str(error)).partition("\n")[0]
        raise UserError(
            f"no MLflow store answers at {redact(uri)}: {reason}",
            where="MLFLOW_TRACKING_URI",
            cure="start that server, or unset the variable to use mlflow.db in this folder",
        ) from None
    return client


def _check_database(uri: str, create: bool) -> None:
    """Fails at once where MLflow would retry for minutes, or add its tables to Optuna's."""
    url = sql.make_url(uri)
    is_file = url.get_backend_name() == "sqlite" and url.database not in (None, "", ":memory:")
    if is_file and not Path(str(url.database)).exists():
        if create:
            return
        raise UserError(
            f"there is no MLflow store at {redact(uri)}",
            where="MLFLOW_TRACKING_URI",
            cure="go to the folder of the search, or set the variable to the store it wrote to",
        )
    engine = sql.create_engine(url)
    tables = set(sql.inspect(engine).get_table_names())
    engine.dispose()
    if "studies" in tables and "experiments" not in tables:
        raise UserError(
            f"the database at {redact(uri)} holds Optuna's studies",
            where="MLFLOW_TRACKING_URI",
            rule="Optuna and MLflow need a database each",
            cure="name another database for one of the two",
        )
