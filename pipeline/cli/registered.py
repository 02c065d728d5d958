"""What MLflow has: a registered model scored, and its pages."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from pipeline.errors import redact


def evaluate(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="models:/NAME@champion, say.")],
    data: Annotated[
        Path | None,
        typer.Option(metavar="SPACE.yaml", help="Take the images of this space file instead."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Score a registered model on the test split, and record that it was read."""
    from pipeline.config.space_file import load_space
    from pipeline.evaluation import evaluate as evaluate_model
    from pipeline.progress import LogView
    from pipeline.report.evaluation import evaluation_report

    config = None if data is None else load_space(data).config
    view = LogView(Console(stderr=True))
    result = evaluate_model(model, config.data if config else None, view.loading)
    if as_json:
        print(result.to_json())
    else:
        Console().print(evaluation_report(result))


def ui(
    port: Annotated[int, typer.Option(help="The port to serve on.", min=1, max=65_535)] = 5000,
    host: Annotated[str, typer.Option(help="The address to serve on.")] = "127.0.0.1",
    allow: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Another name that browsers reach it by; repeatable."),
    ] = None,
) -> None:
    """MLflow's UI on this project's store: the same that plain `mlflow ui` shows."""
    from pipeline.tracking.ui import server_command

    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    if uri.startswith(("http://", "https://")):
        print(f"MLFLOW_TRACKING_URI names a server already: open {redact(uri)}")
        return
    if uri:  # by the environment, since a process list shows arguments
        os.environ["MLFLOW_BACKEND_STORE_URI"] = uri
    command = server_command(host, port, allow or [])
    os.execv(command[0], command)
