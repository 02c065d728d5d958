"""Freed memory, kept: a training step frees what the next one allocates again.

glibc gives large blocks back to the kernel, which hands them out again page by page, zeroed. On a
CPU that slows a step down: `python -m benchmarks memory` measures by how much.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Any

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # malloc.h
_NEVER = 2**31 - 1


def keep_freed() -> None:
    """From now on this process keeps the memory that it frees. Nothing happens without glibc."""
    mallopt = _glibc("mallopt")
    if mallopt is not None:
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, _NEVER)


def give_back_freed() -> None:
    """Give the memory back that was freed so far."""
    malloc_trim = _glibc("malloc_trim")
    if malloc_trim is not None:
        malloc_trim(0)


def _glibc(name: str) -> Any:
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
