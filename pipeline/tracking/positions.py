"""How far an MLflow store has taken a study's journal: a small file beside the journal."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path


def positions_file(journal: Path, study_run_id: str) -> Path:
    """One file a study's run, so that another MLflow store gets everything from the start."""
    return journal / f"delivered-{study_run_id}.json"


def load_positions(path: Path) -> dict[str, int]:
    """File name -> bytes taken; empty if nothing sound is there, since a replay does no harm."""
    try:
        positions = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    sound = isinstance(positions, dict) and all(isinstance(n, int) for n in positions.values())
    return positions if sound else {}


def save_positions(path: Path, positions: Mapping[str, int]) -> None:
    """Replaces the file at once, so that a kill leaves the old one or the new one.

    Raises:
        OSError: it can't be written, as when the disk is full.
    """
    temporary = path.with_name(f".{path.name}-{os.getpid()}-{secrets.token_hex(4)}")
    try:
        temporary.write_text(json.dumps(positions))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
