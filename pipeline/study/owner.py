"""Which process runs a trial, and whether it still lives."""

from __future__ import annotations

import os
import socket
import uuid
from pathlib import Path


def new_owner() -> str:
    """A token for one claim: `host|boot and namespace|pid|start|random`.

    No later process shares what comes before the random part, even where pids come again.
    """
    pid = os.getpid()
    return "|".join([_machine(), str(pid), _start(pid) or "", uuid.uuid4().hex[:8]])


def describe_owner(owner: str) -> str:
    """`host:pid`, for people."""
    return f"{host_of(owner)}:{owner.split('|')[2]}"


def host_of(owner: str) -> str:
    """The name of the machine that the process ran on."""
    return owner.partition("|")[0]


def has_died(owner: str) -> bool:
    """Whether the process ran on this machine and is gone; False where that can't be known."""
    machine, pid, start, _ = owner.rsplit("|", 3)
    if machine != _machine():
        return False
    if not _is_alive(int(pid)):
        return True
    now = _start(int(pid))
    return now is not None and start != "" and now != start


def _machine() -> str:
    """The host, its boot and its pid namespace: hosts and containers may share a name, but not the
    boot, or not the pids."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = str(Path("/proc/self/ns/pid").readlink())
    except OSError:  # not Linux
        return f"{socket.gethostname()}|"
    return f"{socket.gethostname()}|{boot}:{namespace}"


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _start(pid: int) -> str | None:
    """When the process started, in the kernel's ticks since boot; None where that can't be known.

    A zombie has ended, though its pid is still taken: "ended".
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return "ended" if fields[0] in "ZX" else fields[19]
