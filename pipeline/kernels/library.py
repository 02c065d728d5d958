"""The C++ of this folder as a library: built by the machine's own compiler at first use, then kept.

It is built for the very processor that it runs on, and so is nothing that could be shipped.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

SOURCE = Path(__file__).with_name("norm.cpp")
COMPILERS = ("c++", "g++", "clang++")
FLAGS = ("-std=c++17", "-O3", "-fPIC", "-shared", "-Wno-psabi")
BETTER = (("-march=native", "-fopenmp"), ("-march=native",), ())
"""With this processor's instructions and with threads, or what is left where a compiler knows
neither."""
BUILD_SEC = 120.0

_POINTER, _NUMBER = ctypes.c_void_p, ctypes.c_double
_HOW = [ctypes.c_int64] * 4 + [ctypes.c_int] * 4  # the shape; flags and threads
ARGUMENTS = {
    "norm_forward": [_POINTER] * 7 + _HOW + [_NUMBER] * 2,
    "norm_backward": [_POINTER] * 6 + _HOW,
    "norm_apply": [_POINTER] * 4 + _HOW,
}
"""As `norm.cpp` declares them."""


class KernelError(RuntimeError):
    """The kernels can't be had on this machine; the text says why."""


def library() -> ctypes.CDLL:
    """The kernels, loaded. The first process on a machine waits some seconds for the compiler.

    Raises:
        KernelError: there is no compiler, it fails, or what it builds can't be kept or loaded.
    """
    found = _load()
    if isinstance(found, KernelError):
        raise found.with_traceback(None)
    return found


def missing() -> str:
    """Why the kernels can't be had on this machine; empty where they can."""
    found = _load()
    return str(found) if isinstance(found, KernelError) else ""


@cache
def _load() -> ctypes.CDLL | KernelError:
    """Tried once a process."""
    try:
        return _loaded()
    except KernelError as error:
        return error


def _loaded() -> ctypes.CDLL:
    try:
        path = library_path()
        if not path.exists():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _build(path)
        loaded = ctypes.CDLL(str(path))
    except OSError as error:
        raise KernelError(f"the kernels can't be kept or loaded: {error}") from error
    for name, arguments in ARGUMENTS.items():
        function = getattr(loaded, name)
        function.argtypes, function.restype = arguments, None
    return loaded


def library_path() -> Path:
    """Where it is kept: in the user's own folder for what can be made again, under a name for the
    source, the flags and the processor.

    Raises:
        KernelError: the user has no home folder.
    """
    parts = (
        SOURCE.read_text(encoding="utf-8"),
        repr((FLAGS, BETTER)),
        platform.machine(),
        _processor(),
    )
    key = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    except RuntimeError as error:
        raise KernelError("there is no home folder to keep the kernels in") from error
    return folder / "regsearch" / f"kernels-{key}.so"


def find_compiler() -> str | None:
    """`CXX` of the environment, or the first of the usual ones that there is."""
    names = [os.environ["CXX"]] if os.environ.get("CXX") else COMPILERS
    return next((found for name in names if (found := shutil.which(name))), None)


def _build(path: Path) -> None:
    """Whoever builds it at the same time builds the same: the last one to move it there wins."""
    compiler = find_compiler()
    if compiler is None:
        raise KernelError("there is no C++ compiler (g++, clang++)")
    with TemporaryDirectory(dir=path.parent, prefix=".building-") as temporary:
        built = Path(temporary, path.name)
        for better in BETTER:
            command = [compiler, *FLAGS, *better, str(SOURCE), "-o", str(built)]
            try:
                done = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_SEC)
            except subprocess.TimeoutExpired as error:
                raise KernelError(f"{compiler} took more than {BUILD_SEC:.0f} s") from error
            if done.returncode == 0:
                built.replace(path)
                return
    told = (line for line in done.stderr.splitlines() if "error" in line)
    raise KernelError(f"{compiler} failed: {next(told, f'exit code {done.returncode}')}")


def _processor() -> str:
    """What instructions there are, as far as the system tells."""
    try:
        told = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = ("model name", "flags", "Features", "CPU part")
    return "\n".join(sorted({line for line in told if line.startswith(names)}))
