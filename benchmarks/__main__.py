"""The benchmarks' commands. What decides how OpenMP waits is set before torch is imported."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help=__doc__, add_completion=False, no_args_is_help=True)

Data = Annotated[
    Path | None,
    typer.Option(metavar="FOLDER", help="An image folder (train/<class>/*); random if not given."),
]
Images = Annotated[
    Path, typer.Option(metavar="FOLDER", help="An image folder (train/<class>/*): CIFAR-10's, say.")
]
Out = Annotated[Path | None, typer.Option(metavar="STEM", help="Also write STEM.json and STEM.md.")]
Quick = Annotated[bool, typer.Option("--quick", help="Fewer images and rounds, under a minute.")]


@app.command()
def step(quick: Quick = False, data: Data = None, out: Out = None) -> None:
    """Images per second of a training epoch, against two DataLoader loops."""
    from benchmarks.step import run

    run(quick=quick, folder=data, out=out)


@app.command()
def parity(
    data: Images,
    quick: Quick = False,
    out: Out = None,
) -> None:
    """Accuracy after the same few epochs, against the tutorial loop."""
    from benchmarks.parity import run

    run(quick=quick, folder=data, out=out)


@app.command()
def study(
    data: Images,
    quick: Quick = False,
    rounds: Annotated[int, typer.Option(metavar="N", help="Turns of each contender.")] = 1,
    out: Out = None,
) -> None:
    """Trials per hour of a small study, against Optuna + MLflow and Ray Tune, if installed."""
    from benchmarks.study import run

    run(quick=quick, folder=data, out=out, rounds=rounds)


@app.command()
def overhead(quick: Quick = False, out: Out = None) -> None:
    """Milliseconds a trial and an epoch that are not training, and how the store's time grows."""
    from benchmarks.overhead import run

    run(quick=quick, out=out)


@app.command()
def memory(
    data: Images,
    quick: Quick = False,
    out: Out = None,
) -> None:
    """Seconds of loading, and a worker's memory over 100 trials."""
    from benchmarks.memory import run

    run(quick=quick, folder=data, out=out)


@app.command()
def gpu(
    data: Images,
    quick: Quick = False,
    device: Annotated[str, typer.Option(help="cuda, or cpu to try the benchmark itself.")] = "cuda",
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="PART", help="This part alone; may be given several times."),
    ] = None,
    out: Out = None,
) -> None:
    """All figures of a GPU machine in one table, within nine minutes."""
    from benchmarks.gpu import PARTS, run

    unknown = sorted(set(only or ()) - set(PARTS))
    if unknown:
        raise typer.BadParameter(f"{', '.join(unknown)}: the parts are {', '.join(PARTS)}")
    run(quick=quick, folder=data, device=device, out=out, only=only or ())


if __name__ == "__main__":
    app()
