"""Programs that a benchmark starts in a folder of their own."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path


def environment(**more: str) -> Mapping[str, str]:
    """This process's and `more`; there too the same packages are found, this project's among them,
    installed or not."""
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    found = [str(Path(path).resolve()) for path in (".", *paths)]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(found), **more}
