"""A run's tables: artifacts that MLflow's UI shows as such, those of several runs together."""

from __future__ import annotations

import json
from collections.abc import Mapping

from mlflow import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_LOGGED_ARTIFACTS

from pipeline.events import Table


def log_tables(client: MlflowClient, run_id: str, tables: Mapping[str, Table]) -> None:
    """Log the tables that a run does not have yet, by their file names.

    `MlflowClient.log_table` would append the same rows once more.
    """
    if not tables:
        return
    tags = client.get_run(run_id).data.tags
    entries = _entries(tags)
    for name, rows in tables.items():
        if name in logged_tables(tags):
            continue
        columns = list(rows[0]) if rows else []
        data = [[row[column] for column in columns] for row in rows]
        client.log_text(run_id, json.dumps({"columns": columns, "data": data}), name)
        entries.append({"path": name, "type": "table"})
        client.set_tag(run_id, MLFLOW_LOGGED_ARTIFACTS, json.dumps(entries))


def logged_tables(tags: Mapping[str, str]) -> set[str]:
    """The names of a run's tables, by its tags."""
    return {entry["path"] for entry in _entries(tags) if entry["type"] == "table"}


def _entries(tags: Mapping[str, str]) -> list[dict[str, str]]:
    found: list[dict[str, str]] = json.loads(tags.get(MLFLOW_LOGGED_ARTIFACTS, "[]"))
    return found
