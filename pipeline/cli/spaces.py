"""A space file: what it means, and what may be in it."""

from __future__ import annotations

import json

from rich.console import Console

from pipeline.cli.arguments import Assignments, SpaceFile


def validate(space: SpaceFile, assignments: Assignments = None) -> None:
    """Check a space file without training, and print what it means."""
    from pipeline.config.space_file import load_space
    from pipeline.report.space import space_report

    loaded = load_space(space, assignments or [])
    Console().print(space_report(loaded.config))
    print(f"{space} is right.")


def schema() -> None:
    """The JSON Schema of a space file, for editors to complete it."""
    from pipeline.config.schema import space_schema

    print(json.dumps(space_schema(), indent=2))
