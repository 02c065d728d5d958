"""Results as a Markdown table for people and as JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.machine import describe


def publish(title: str, notes: str, rows: Sequence[dict[str, Any]], out: Path | None) -> None:
    """Print rows with the same keys, and write them to `out`.md and `out`.json if given."""
    print(record(title, notes, rows, out))


def record(title: str, notes: str, rows: Sequence[dict[str, Any]], out: Path | None) -> str:
    """Write them if `out` is given; the page that is to be printed."""
    machine = describe()
    about = "\n".join(f"- {name}: {value}" for name, value in machine.items())
    page = f"# {title}\n\n{notes}\n\n{table(rows)}\n\n{about}\n"
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.with_suffix(".md").write_text(page, encoding="utf-8")
        content = {"title": title, "notes": notes, "machine": machine, "rows": rows}
        out.with_suffix(".json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return page


def table(rows: Sequence[dict[str, Any]]) -> str:
    """A Markdown table; the first row's keys are its header."""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(list(row.values()) for row in rows)]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)
