"""The commands: parse, call, print, exit code. 0 is done, 2 a mistake of the user's, 1 the rest."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.text import Text

from pipeline import __version__
from pipeline.cli.books import doctor, status, sync
from pipeline.cli.findings import bounds, report, reproduce
from pipeline.cli.registered import evaluate, ui
from pipeline.cli.searches import ablate, run
from pipeline.cli.spaces import schema, validate
from pipeline.errors import UserError, redact
from pipeline.interrupts import leave_at_once
from pipeline.secrecy import hide_arguments

app = typer.Typer(
    help="Search the regularization of an image classifier: Optuna tries settings, MLflow shows "
    "every trial, and the best model is registered.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def _print_version(asked: bool) -> None:
    if asked:
        print(f"regsearch {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print it."),
    ] = False,
) -> None:
    """What goes before a command."""


# In the order in which the help page shows them.
for _command in (
    run,
    validate,
    evaluate,
    status,
    sync,
    doctor,
    bounds,
    report,
    reproduce,
    ablate,
    ui,
    schema,
):
    app.command()(_command)


def command() -> NoReturn:
    """The whole process: `main`, and an end as a process of multiprocessing has it: what is open is
    closed, and nothing torn down. To free all that torch and MLflow have made can take two seconds.
    """
    try:
        main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0
    leave_at_once()
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:  # whoever read it has gone, or the disk is full
            code = code or 1
    os._exit(code)


def main() -> None:
    """Turns what is raised into a message and an exit code."""
    hide_arguments()
    # Threads that spin while they wait stall one another on a busy machine; set before torch loads.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:  # see `pipeline.__main__`
            signal.signal(signal.SIGINT, signal.default_int_handler)
        app()
    except UserError as error:
        _complain(str(error))
        sys.exit(2)
    except KeyboardInterrupt:
        Console(stderr=True).print("stopped")
        sys.exit(130)
    except Exception as error:
        if os.environ.get("REGSEARCH_DEBUG"):
            raise
        message = redact(f"{type(error).__name__}: {error}")
        _complain(f"{message}\n  this was not foreseen; REGSEARCH_DEBUG=1 shows where")
        sys.exit(1)


def _complain(message: str) -> None:
    Console(stderr=True, soft_wrap=True).print(Text.assemble(("error: ", "red"), message))
