"""Which process runs a trial, and whether it still lives."""

from __future__ import annotations

import os
import socket
from pathlib import Path


def this_process() -> str:
    """`host:pid:start`, which no later process shares, even where pids come again (containers)."""
    pid = os.getpid()
    return f"{socket.gethostname()}:{pid}:{_start(pid)}"


def has_died(owner: str) -> bool:
    """Whether the process ran on this machine and is gone; False where that can't be known."""
    host, pid, start = owner.rsplit(":", 2)
    return host == socket.gethostname() and not (_is_alive(int(pid)) and _start(int(pid)) == start)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _start(pid: int) -> str:
    """When the process started, in the kernel's ticks since boot; empty where there is no /proc."""
    stat = Path(f"/proc/{pid}/stat")
    try:
        return stat.read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""
