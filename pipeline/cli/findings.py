"""What one study has to tell: its bounds, its report, a trial of it trained again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from pipeline.cli.arguments import OneStudy, Storage
from pipeline.places import DEFAULT_STORAGE


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


def reproduce(
    study: OneStudy,
    trial: Annotated[int, typer.Argument(metavar="TRIAL", help="A trial's number.", min=0)],
    of: Annotated[
        str,
        typer.Option(
            metavar="KIND",
            help="A follow-up, such as finalists; MLflow's tag regsearch.trial has its numbers.",
        ),
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
