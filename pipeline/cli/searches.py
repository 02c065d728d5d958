"""What workers train for: a search, an ablation. Both may be interrupted at any time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.console import Console

from pipeline.cli.arguments import (
    Assignments,
    Device,
    OneStudy,
    SpaceFile,
    Storage,
    Timeout,
    Workers,
)
from pipeline.errors import UserError
from pipeline.interrupts import Terminated, interruptible, leave_at_once
from pipeline.places import DEFAULT_STORAGE


def run(
    space: SpaceFile,
    trials: Annotated[
        int | None,
        typer.Option(help="Finished trials in the study, over all its runs.", min=1, max=1_000_000),
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
        with console.status("loading torch and Optuna ..."):
            warm_up()
            from pipeline.search import Options, run_search
        options = Options(device, storage, timeout, num_workers, extend)
        with open_view(console, f"regsearch: study {loaded.config.study.name}") as view:
            outcome = run_search(loaded, options, view)
    from pipeline.report.summary import summary

    console.print(summary(outcome), crop=False)  # commands stay whole
    raise typer.Exit(0 if outcome.succeeded else 1)


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


@contextmanager
def _stoppable(console: Console) -> Iterator[None]:
    """What trains, and may be interrupted at any time."""
    try:
        with interruptible():
            yield
    except KeyboardInterrupt as interrupt:
        leave_at_once()
        console.print("stopped; the same command goes on, a running trial from where it was saved")
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
