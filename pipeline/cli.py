"""The commands: parse, call, print, exit code. 0 is done, 2 a mistake of the user's, 1 the rest."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from pipeline.errors import UserError, redact
from pipeline.interrupts import Terminated, interruptible
from pipeline.places import DEFAULT_STORAGE
from pipeline.secrecy import hide_arguments

app = typer.Typer(
    help="Search the regularization of an image classifier: Optuna tries settings, MLflow shows "
    "every trial, and the best model is registered.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

SpaceFile = Annotated[
    Path, typer.Argument(metavar="SPACE.yaml", help="The search space: see search_spaces/.")
]
StudyName = Annotated[
    str | None, typer.Argument(metavar="STUDY", help="A study's name; all of them without it.")
]
OneStudy = Annotated[str, typer.Argument(metavar="STUDY", help="A study's name.")]
Assignments = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change a setting of the file by its dotted path; may be repeated.",
    ),
]
Storage = Annotated[
    str,
    typer.Option(
        envvar="REGSEARCH_STORAGE", help="The study's store, as an SQLAlchemy URL.", metavar="URL"
    ),
]
Timeout = Annotated[
    float | None,
    typer.Option(help="Start no training after so many seconds.", metavar="SEC", min=0),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:i.")]
Workers = Annotated[
    str,
    typer.Option(
        metavar="N|auto",
        help="Processes that train side by side; auto: one a GPU, or a share of the cores each.",
    ),
]


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"regsearch {version('regsearch')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print it."),
    ] = False,
) -> None:
    """What goes before a command."""


@app.command()
def run(
    space: SpaceFile,
    trials: Annotated[
        int | None, typer.Option(help="Finished trials in the study, over all its runs.", min=1)
    ] = None,
    timeout: Timeout = None,
    device: Device = "auto",
    workers: Workers = "auto",
    assignments: Assignments = None,
    extend: Annotated[
        bool,
        typer.Option("--extend", help="Take wider bounds, sampler and pruner into the study."),
    ] = False,
    storage: Storage = DEFAULT_STORAGE,
) -> None:
    """Run a study: baselines first, then what the sampler draws. Run it again to go on."""
    from pipeline.config.space_file import load_space
    from pipeline.progress import open_view
    from pipeline.workers.pool import warm_up

    given = [*(assignments or []), *([] if trials is None else [f"study.trials={trials}"])]
    loaded = load_space(space, given)
    num_workers = _workers(workers)
    console = Console()
    with _stoppable(console):
        with console.status("loading torch, Optuna and MLflow ..."):
            warm_up(*loaded.config.data.imports)
            from pipeline.report.summary import summary
            from pipeline.search import Options, run_search
        options = Options(device, storage, timeout, num_workers, extend)
        with open_view(console, f"regsearch: study {loaded.config.study.name}") as view:
            outcome = run_search(loaded, options, view)
    console.print(summary(outcome))
    raise typer.Exit(0 if outcome.succeeded else 1)


@app.command()
def validate(space: SpaceFile, assignments: Assignments = None) -> None:
    """Check a space file without training, and print what it means."""
    from pipeline.config.space_file import load_space
    from pipeline.report.space import space_report

    loaded = load_space(space, assignments or [])
    Console().print(space_report(loaded.config))
    print(f"{space} is right.")


@app.command()
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


@app.command()
def status(study: StudyName = None, storage: Storage = DEFAULT_STORAGE) -> None:
    """Tell where the studies of a store stand, and who is running which trial."""
    from pipeline.report.status import status_report
    from pipeline.status import study_statuses

    Console().print(status_report(study_statuses(storage, study)))


@app.command()
def sync(study: StudyName = None, storage: Storage = DEFAULT_STORAGE) -> None:
    """Bring MLflow up to date with the studies: runs, curves, and the registered models."""
    from pipeline.progress import open_view
    from pipeline.report.status import sync_report
    from pipeline.sync import sync_studies

    console = Console()
    with open_view(console, "regsearch: sync") as view:
        results = sync_studies(storage, study, view)
    console.print(sync_report(results))
    raise typer.Exit(0 if all(result.complete for result in results) else 1)


@app.command()
def doctor(
    study: StudyName = None,
    fix: Annotated[bool, typer.Option("--fix", help="Mend what can be mended.")] = False,
    storage: Storage = DEFAULT_STORAGE,
) -> None:
    """Look for what crashes have left behind: stale trials, open runs, damaged files."""
    from pipeline.doctor import examine
    from pipeline.report.status import doctor_report

    findings = examine(storage, study, fix=fix)
    Console().print(doctor_report(findings, fix=fix))
    raise typer.Exit(0 if all(finding.fixed for finding in findings) else 1)


@app.command()
def bounds(
    study: OneStudy,
    out: Annotated[
        Path | None,
        typer.Option(metavar="SPACE.next.yaml", help="Where to write; else STUDY.next.yaml."),
    ] = None,
    storage: Storage = DEFAULT_STORAGE,
) -> None:
    """Judge a study's bounds by its trials, and write a space file with better ones."""
    from pipeline.analysis.bounds import examine_bounds
    from pipeline.analysis.next_space import next_space_text, write_next_space
    from pipeline.report.bounds import bounds_report
    from pipeline.study.ledger import Ledger
    from pipeline.study.record import recall, study_names
    from pipeline.study.storage import open_storage

    store = open_storage(storage, create=False)
    ledger = Ledger(recall(store, study), store, begin=False)
    report, path = examine_bounds(ledger.config, ledger.trials()), None
    if report.is_changed and report.next.entries:
        path = out or Path(f"{study}.next.yaml")
        text = ledger.recorded("artifacts")["space.yaml"]
        write_next_space(path, next_space_text(report, text, study_names(store)))
    Console().print(bounds_report(report, path))


@app.command()
def report(
    study: OneStudy,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE.html", help="Where to write; else STUDY.report.html."),
    ] = None,
    storage: Storage = DEFAULT_STORAGE,
) -> None:
    """Write all that a study has to tell into one HTML file, and log it in MLflow."""
    from pipeline.report.html import write_report

    written = write_report(storage, study, out)
    print(f"written to {written.path}")
    if written.not_logged:
        print(f"not logged in MLflow: {written.not_logged}")


@app.command()
def reproduce(
    study: OneStudy,
    trial: Annotated[int, typer.Argument(metavar="TRIAL", help="A trial's number.", min=0)],
    of: Annotated[
        str,
        typer.Option(metavar="KIND", help="A follow-up, such as finalists, whose training it is."),
    ] = "",
    device: Annotated[
        str, typer.Option(help="auto (as the study was trained), cpu, cuda or cuda:i.")
    ] = "auto",
    storage: Storage = DEFAULT_STORAGE,
) -> None:
    """Train a trial again from its record, and tell how far the curve is from the recorded one."""
    from pipeline.progress import LogView
    from pipeline.recorded_trial import find_record
    from pipeline.report.reproduction import epoch_line, record_line, reproduction_report
    from pipeline.reproduction import reproduce as train_again

    console = Console()
    view = LogView(console)
    record = find_record(storage, study, trial, of, device)
    view.note(record_line(record))
    result = train_again(record, view, lambda *told: view.note(epoch_line(*told)))
    console.print(reproduction_report(result))
    raise typer.Exit(0 if result.identical else 1)


@app.command()
def ablate(
    study: OneStudy,
    seeds: Annotated[
        int, typer.Option(help="Fresh seeds that each variant is trained with.", min=1, max=50)
    ] = 3,
    pairs: Annotated[
        int, typer.Option(help="Pairs of the strongest that are tried together.", min=0)
    ] = 3,
    transfer: Annotated[
        bool,
        typer.Option(
            "--transfer", help="Train the finalists at twice the epochs and half the data too."
        ),
    ] = False,
    timeout: Timeout = None,
    device: Device = "auto",
    workers: Workers = "auto",
    storage: Storage = DEFAULT_STORAGE,
) -> None:
    """Say what each regularizer of the winner is worth: without it, alone, and in pairs."""
    from pipeline.progress import open_view
    from pipeline.workers.pool import warm_up

    num_workers, console = _workers(workers), Console()
    with _stoppable(console):
        with console.status("loading torch, Optuna and MLflow ..."):
            warm_up()
            from pipeline.report.ablation import ablation_report
            from pipeline.revisit import Means, ablate
        means = Means(storage, device, num_workers, timeout)
        with open_view(console, f"regsearch: ablation of {study}") as view:
            done = ablate(study, means, view, seeds=seeds, pairs=pairs, transfer=transfer)
    console.print(ablation_report(done))
    raise typer.Exit(1 if done.unfinished else 0)


@app.command()
def ui(
    port: Annotated[int, typer.Option(help="The port to serve on.")] = 5000,
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


@app.command()
def schema() -> None:
    """The JSON Schema of a space file, for editors to complete it."""
    from pipeline.config.schema import space_schema

    print(json.dumps(space_schema(), indent=2))


@contextmanager
def _stoppable(console: Console) -> Iterator[None]:
    """What trains, and may be interrupted at any time."""
    try:
        with interruptible():
            yield
    except KeyboardInterrupt as interrupt:
        console.print("stopped; nothing is lost, and the same command goes on")
        raise typer.Exit(143 if isinstance(interrupt, Terminated) else 130) from None


def _workers(text: str) -> int | None:
    if text == "auto":
        return None
    if not text.isdecimal() or not 1 <= int(text) <= 256:
        raise UserError(
            f"`{text}` is no number of workers",
            where="--workers",
            rule="auto, or a whole number from 1 to 256",
            cure="leave the option out to let the machine decide",
        )
    return int(text)


def main() -> None:
    """The entry point: turns what is raised into a message and an exit code."""
    hide_arguments()
    # Threads that spin while they wait stall one another on a busy machine; set before torch loads.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
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
