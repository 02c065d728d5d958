"""How a state lies on disk: whole or not at all, checked before it is read, never executed.

A file is a header (magic, version, length and SHA-256 of the payload) and the payload, in torch's
own format. torch alone would overwrite the old file with half of a new one when the disk is full,
and would load one with flipped bits without a word.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import struct
import time
import uuid
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import IO, Any, NoReturn, cast

MAGIC = b"regstate"
VERSION = 1
TEMPORARY = ".tmp"
ABANDONED_SEC = 3600.0
"""A temporary file that has not been written to for so long is nobody's any more."""

_HEADER = struct.Struct("<8sIQ32s")


class DamagedFileError(Exception):
    """A file that is not, or no longer, what was written.

    Attributes:
        path: the file.
        problem: what is wrong with it.
    """

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(f"{path}: {problem}")
        self.path, self.problem = path, problem


def save_state(path: Path, state: Mapping[Any, Any]) -> None:
    """Write a state into an existing folder; the old file stays whole until the new one is.

    Args:
        path: the file. Several processes may save it at once; the last one to finish stays.
        state: tensors on any device, numbers, strings and None, in mappings, lists and tuples.
            Nothing is copied, but for one tensor at a time where it is not on the CPU.

    Raises:
        TypeError: something in `state` could not be loaded again.
        OSError: it could not be written, as on a full disk.
    """
    state = _plain(state, "state")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}{TEMPORARY}")
    try:
        with temporary.open("xb") as file:
            _try_lock(file)  # until it is renamed, and no longer than this process lives
            _write(file, state)
            temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def load_state(path: Path) -> dict[Any, Any]:
    """Read a state, its tensors on the CPU; no code in the file is run.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedFileError: its bytes are not those that were saved, or they are no state.
    """
    with path.open("rb") as file:
        digest = _read_header(path, file)
        payload = file.read()
    if hashlib.sha256(payload).digest() != digest:
        _raise_altered(path)
    import torch

    try:
        state = torch.load(BytesIO(payload), map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # a payload made by others can fail in any way
        text = f"cannot be read as plain data: {type(error).__name__}: {error}"
        raise DamagedFileError(path, text) from error
    if not isinstance(state, dict):
        raise DamagedFileError(path, f"holds a {type(state).__name__}, not a state")
    return state


def check_state(path: Path) -> None:
    """Read a file's bytes, and none of its contents.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedFileError: its bytes are not those that were saved.
    """
    with path.open("rb") as file:
        if _read_header(path, file) != hashlib.file_digest(file, "sha256").digest():
            _raise_altered(path)


def is_abandoned(temporary: Path) -> bool:
    """Whether the writer of a temporary file is gone, or must be.

    A writer holds a lock on it, which the kernel drops with the process: unlike a pid, this is
    also true between containers that share a folder.
    """
    try:
        with temporary.open("rb") as file:
            status = os.fstat(file.fileno())
            has_begun = status.st_size > 0  # or it may be too young to be locked
            old = time.time() - status.st_mtime > ABANDONED_SEC
            return old or (has_begun and _try_lock(file))
    except FileNotFoundError:
        return False  # renamed meanwhile


class _Payload:
    """What torch writes to: passes it on to a file, and hashes and counts it on the way."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.sha256, self.length = file, hashlib.sha256(), 0
        self.error: BaseException | None = None

    def write(self, data: memoryview) -> int:
        try:
            self.file.write(data)
            self.sha256.update(data)
        except BaseException as error:
            self.error = error
            raise
        self.length += data.nbytes
        return data.nbytes

    def flush(self) -> None:
        self.file.flush()


def _write(file: IO[bytes], state: Mapping[Any, Any]) -> None:
    import torch

    file.write(bytes(_HEADER.size))
    payload = _Payload(file)
    try:
        torch.save(state, cast(IO[bytes], payload))
    except RuntimeError:
        # After a write that failed, or was interrupted, torch complains of its own position.
        if payload.error is not None:
            raise payload.error from None
        raise
    file.seek(0)
    file.write(_HEADER.pack(MAGIC, VERSION, payload.length, payload.sha256.digest()))
    file.flush()
    os.fsync(file.fileno())


def _read_header(path: Path, file: IO[bytes]) -> bytes:
    """The payload's SHA-256, after all else that the header says was found to be true."""
    start = file.read(_HEADER.size)
    if len(start) < _HEADER.size:
        raise DamagedFileError(path, f"is cut off after {len(start)} bytes")
    magic, version, length, digest = _HEADER.unpack(start)
    if magic != MAGIC:
        raise DamagedFileError(path, "is not a state file")
    if version != VERSION:
        raise DamagedFileError(path, f"has version {version}, not {VERSION}")
    found = os.fstat(file.fileno()).st_size - _HEADER.size
    if found != length:
        raise DamagedFileError(path, f"has {found} bytes of its {length}")
    return bytes(digest)


def _raise_altered(path: Path) -> NoReturn:
    raise DamagedFileError(path, "has been altered: its SHA-256 is not the one it was saved with")


def _plain(value: Any, where: str) -> Any:
    """The same as dicts, lists and tuples, which is what can be loaded without running code."""
    from torch import Tensor, nn

    if type(value) in (Tensor, nn.Parameter):
        return value.detach()
    if isinstance(value, Mapping):
        if any(type(key) not in (str, int) for key in value):
            raise TypeError(f"{where} has keys other than strings and integers")
        return {key: _plain(entry, f"{where}.{key}") for key, entry in value.items()}
    if isinstance(value, list | tuple):
        entries = (_plain(entry, f"{where}.{i}") for i, entry in enumerate(value))
        return list(entries) if isinstance(value, list) else tuple(entries)
    if value is None or type(value) in (bool, int, float, str):
        return value
    raise TypeError(f"{where} is a {type(value).__name__}, which a state cannot hold")


def _try_lock(file: IO[bytes]) -> bool:
    """Whether this process now holds the file's lock: not if another does, or there are none."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _sync_folder(folder: Path) -> None:
    """Make a rename in it outlive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
