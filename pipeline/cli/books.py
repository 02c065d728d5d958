"""A store's books on its studies: read, brought up to date, mended."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from pipeline.cli.arguments import Storage, StudyName
from pipeline.places import DEFAULT_STORAGE


def status(study: StudyName = None, storage: Storage = DEFAULT_STORAGE) -> None:
    """Tell where the studies of a store stand, and who is running which trial."""
    from pipeline.report.status import status_report
    from pipeline.status import study_statuses

    Console().print(status_report(study_statuses(storage, study)))


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
