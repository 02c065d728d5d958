"""Memory that is freed stays with the process, until it is told to give it back."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import mmap
from pathlib import Path
import numpy as np
from pipeline.memory import give_back_freed, keep_freed

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE >> 20

def use():
    np.ones(100 << 20, np.uint8)

before = resident()
use()
print(resident() - before)
keep_freed()
use()
print(resident() - before)
give_back_freed()
print(resident() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc alone can be told")
def test_freed_memory_is_kept_from_then_on_and_given_back_when_told() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
    )
    returned, kept, given_back = map(int, done.stdout.split())
    assert returned < 10
    assert kept > 90
    assert given_back < 10
