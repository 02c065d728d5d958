"""What several commands take: arguments and options."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

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
        help="Change a setting of the file by its dotted path; a value in [] or {} is a list or a "
        "mapping, as in YAML; may be repeated.",
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
