"""A study's journal: files of events that are appended to, that a kill or a full disk can't spoil.

Every writing process has a file of its own, so writers need no lock. A line is a checksum and an
event; whatever is not a whole line with the right checksum is not there.
"""

from __future__ import annotations

import errno
import os
import platform
import re
import secrets
import threading
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from pipeline.events import Event, Note, decode, encode, now_ms

DEFAULT_ROOT = Path("mlruns/journal")
_TAIL_BYTES = 4096


def journal_folder(study_uuid: str, root: Path = DEFAULT_ROOT) -> Path:
    """The folder of a study's journal; it need not exist."""
    return root / study_uuid


class JournalWriter:
    """Appends a process's events to a file of its own, which the first of them creates.

    Threads may share it. An event that `put` has returned from survives a kill of the process at
    once, and a power failure once `sync` has returned.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._fd: int | None = None
        self._torn = False
        self._lock = threading.RLock()  # reentrant, for a signal handler that comes in between

    def put(self, event: Event) -> None:
        """Appends the event.

        Raises:
            OSError: it could not be written, as when the disk is full.
        """
        line = _line(event)
        with self._lock:
            for _ in range(2):  # after a write cut short, the next one says what is the matter
                if self._append(line):
                    return
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.folder))

    def try_put(self, event: Event) -> None:
        """Appends an event that MLflow can do without, since the store has it too, if it can."""
        with suppress(OSError):
            self.put(event)

    def note(self, text: str) -> None:
        """Appends a line for the people who watch.

        Raises:
            OSError: as `put`.
        """
        self.put(Note(text, now_ms()))

    def sync(self) -> None:
        """Waits until what was written is on the disk."""
        with self._lock:
            if self._fd is not None:
                getattr(os, "fdatasync", os.fsync)(self._fd)  # macOS has no fdatasync

    def close(self) -> None:
        """Closes the file; a later event would begin another."""
        with self._lock:
            if self._fd is not None:
                os.close(self._fd)
            self._fd, self._torn = None, False

    def _append(self, line: bytes) -> bool:
        """Whether the whole line was written, by one call, on a line of its own."""
        if self._fd is None:
            self._fd = self._create()
        data = b"\n" + line if self._torn else line
        self._torn = True  # until the write has returned and was whole
        if os.write(self._fd, data) < len(data):
            return False
        self._torn = False
        return True

    def _create(self) -> int:
        self.folder.mkdir(parents=True, exist_ok=True)
        now = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        host = re.sub(r"[^\w.]", "-", platform.node())
        name = f"{now}-{host}-{os.getpid()}-{secrets.token_hex(4)}.jsonl"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        return os.open(self.folder / name, flags, 0o666)


class JournalReader:
    """Reads the events of all writers, each of them once, as they come.

    Args:
        positions: file name -> bytes of it that were read already.
    """

    def __init__(self, folder: Path, positions: Mapping[str, int] | None = None) -> None:
        self.folder = folder
        self._positions = dict(positions or {})
        self.num_damaged = 0

    @property
    def positions(self) -> dict[str, int]:
        """File name -> bytes of it that were read."""
        return dict(self._positions)

    def read(self) -> list[Event]:
        """What is new, by the time at which it happened; lines that are damaged are counted.

        Raises:
            OSError: a file can't be read; nothing counts as read then.
        """
        events: list[Event] = []
        positions, num_damaged = {}, 0
        for path, start in self._grown():
            data = _whole_lines(path, start)
            positions[path.name] = start + len(data)
            for line in filter(None, data.split(b"\n")):
                event = _event(line)
                if event is None:
                    num_damaged += 1
                else:
                    events.append(event)
        self._positions |= positions
        self.num_damaged += num_damaged
        return sorted(events, key=lambda event: event.time_ms)

    def skip_to_end(self) -> None:
        """Leaves out what has been written so far."""
        for path, start in self._grown():
            self._positions[path.name] = max(start, _end_of_last_line(path))

    def _grown(self) -> Iterator[tuple[Path, int]]:
        """The files with something new, by name, each with where that starts."""
        if not self.folder.is_dir():
            return
        with os.scandir(self.folder) as entries:
            sizes = {e.name: e.stat().st_size for e in entries if e.name.endswith(".jsonl")}
        for name, size in sorted(sizes.items()):
            start = self._positions.get(name, 0)
            if size != start:  # a file that shrank lost its end with the power: read it anew
                yield self.folder / name, start if start < size else 0


def _line(event: Event) -> bytes:
    text = encode(event).encode("ascii")
    return b"%08x %b\n" % (zlib.crc32(text), text)


def _event(line: bytes) -> Event | None:
    """The event of a line, or `None` if the line is damaged."""
    checksum, _, text = line.partition(b" ")
    if checksum != b"%08x" % zlib.crc32(text):
        return None
    try:
        return decode(text.decode("ascii"))
    except ValueError:  # written by another version of regsearch; the reader counts it
        return None


def _whole_lines(path: Path, start: int) -> bytes:
    """From `start` to the end of the last whole line."""
    with path.open("rb") as file:
        file.seek(start)
        data = file.read()
    return data[: data.rfind(b"\n") + 1]


def _end_of_last_line(path: Path) -> int:
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        while end > 0:
            start = max(0, end - _TAIL_BYTES)
            file.seek(start)
            newline = file.read(end - start).rfind(b"\n")
            if newline >= 0:
                return start + newline + 1
            end = start
    return 0
