"""The C++ of this folder as a library: built by the machine's own compiler at first use, then kept.

It is built for the very processor that it runs on, and so is nothing that could be shipped.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

SOURCES = Path(__file__).parent
COMPILERS = ("c++", "g++", "clang++")
FLAGS = ("-std=c++17", "-O3", "-fPIC", "-Wno-psabi")
BETTER = (("-march=native", "-fopenmp"), ("-march=native",), ("-fopenmp",), ())
"""With this processor's instructions and with threads, or what is left of it where a compiler knows
one of them or neither."""
BUILD_SEC = 60.0

Arguments = tuple[type, ...]
_POINTERS: Arguments = (ctypes.c_void_p,)
_NUMBERS: Arguments = (ctypes.c_double,)
_NORM: Arguments = (ctypes.c_int64,) * 4 + (ctypes.c_int,) * 4  # the shape; flags and threads
_TILED: Arguments = (ctypes.c_int64,) * 5 + (ctypes.c_int,)  # images, channels out; threads
_CONV: Arguments = (ctypes.c_int64,) * 6 + (ctypes.c_int,) * 3
ARGUMENTS: dict[str, Arguments] = {
    "norm_forward": _POINTERS * 7 + _NORM + _NUMBERS * 2,
    "norm_backward": _POINTERS * 6 + _NORM,
    "norm_apply": _POINTERS * 4 + _NORM,
    "prepare_images": _POINTERS * 9 + (ctypes.c_int64,) * 4 + (ctypes.c_int,) * 2,
    "winograd_filters": _POINTERS * 2 + (ctypes.c_int64,) * 2 + (ctypes.c_int,),
    "winograd_convolve": _POINTERS * 4 + _TILED,
    "winograd_gradient": _POINTERS * 3 + _TILED,
    "can_convolve": (),
}
"""As the sources declare them."""
CONVOLUTIONS: dict[str, Arguments] = {
    "conv_norm_forward": _POINTERS * 9 + _CONV + _NUMBERS * 2,
    "conv_norm_backward": _POINTERS * 9 + _CONV,
    "conv_norm_apply": _POINTERS * 5 + _CONV,
}
"""Those that there are on a processor with AMX; to be called where `can_convolve` says so."""


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


def can_convolve() -> bool:
    """Whether there are kernels for convolutions, too: they need a processor with AMX, and a
    compiler and a system that know it."""
    found = _load()
    return not isinstance(found, KernelError) and bool(found.can_convolve())


def missing() -> str:
    """Why the kernels can't be had on this machine; empty where they can."""
    found = _load()
    return str(found) if isinstance(found, KernelError) else ""


def must_be_built() -> bool:
    """Whether whoever asks for them first waits for a compiler."""
    try:
        return not library_path().exists() and bool(find_compiler())
    except (KernelError, OSError):  # they can't be, or nobody may look
        return False


@cache
def _load() -> ctypes.CDLL | KernelError:
    """Tried once a process."""
    try:
        return _loaded()
    except KernelError as error:
        return error


def _loaded() -> ctypes.CDLL:
    path = library_path()
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        for file in (path.parent, path):
            _require_own(file)
        if not path.exists():
            _build(path)
        try:
            loaded = ctypes.CDLL(str(path))
        except OSError:  # it is damaged, or needs what this system has not
            _build(path)
            loaded = ctypes.CDLL(str(path))
    except OSError as error:
        raise KernelError(f"the kernels can't be kept or loaded: {error}") from error
    for name, arguments in {**ARGUMENTS, **CONVOLUTIONS}.items():
        if name in ARGUMENTS or hasattr(loaded, name):
            function = getattr(loaded, name)
            function.argtypes = arguments
            function.restype = ctypes.c_int if name == "can_convolve" else None
    return loaded


def _sources() -> list[Path]:
    return sorted(SOURCES.glob("*.cpp"))


def _require_own(file: Path) -> None:
    """Nobody else shall be able to have this process run what they like."""
    if not file.exists():
        return
    status = file.stat()
    if status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise KernelError(f"others can write to {file}")


def library_path() -> Path:
    """Where it is kept: in the user's own folder for what can be made again, under a name for the
    source, the flags and the processor.

    Raises:
        KernelError: the user has no home folder.
    """
    parts = (
        *(path.read_text(encoding="utf-8") for path in (*_sources(), *sorted(SOURCES.glob("*.h")))),
        repr((FLAGS, BETTER, os.environ.get("CXX"))),
        platform.machine(),
        _processor(),
    )
    key = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    except RuntimeError as error:
        raise KernelError("there is no home folder to keep the kernels in") from error
    return folder / "regsearch" / "kernels" / f"{key}.so"


def find_compiler() -> list[str]:
    """`CXX` of the environment, with its arguments, or the first of the usual ones that there is.

    Raises:
        KernelError: there is none.
    """
    named = shlex.split(os.environ.get("CXX", ""))
    if named:
        if shutil.which(named[0]) is None:
            raise KernelError(f"there is no C++ compiler {named[0]!r}, which CXX names")
        return named
    for name in COMPILERS:
        if shutil.which(name):
            return [name]
    raise KernelError(f"there is no C++ compiler ({', '.join(COMPILERS)})")


def _build(path: Path) -> None:
    """Whoever builds it at the same time builds the same: the last one to move it there wins."""
    compiler = find_compiler()
    with TemporaryDirectory(dir=path.parent, prefix=".building-") as temporary:
        built = Path(temporary, path.name)
        objects = [str(built.with_name(f"{source.stem}.o")) for source in _sources()]
        for better in BETTER:
            how, parts = [*compiler, *FLAGS, *better], zip(_sources(), objects, strict=True)
            code, told = _run([[*how, "-c", str(source), "-o", part] for source, part in parts])
            if code == 0:
                code, told = _run([[*how, "-shared", *objects, "-o", str(built)]])
            if code == 0:
                with built.open("rb+") as file:
                    os.fsync(file)  # else a machine that goes down now may leave half of it
                built.chmod(0o700)
                built.replace(path)
                return
    lines = (line for line in told.splitlines() if "error" in line)
    raise KernelError(f"{shlex.join(compiler)} failed: {next(lines, f'exit code {code}')}")


def _run(commands: Sequence[Sequence[str]]) -> tuple[int, str]:
    """All at once; the exit code of the first that failed, or 0, and what it had to say. None of
    their processes outlives them."""
    deadline = time.monotonic() + BUILD_SEC
    code, told = 0, ""
    with ExitStack() as stack:
        started = [stack.enter_context(_started(command)) for command in commands]
        try:
            for one in started:
                _, words = one.communicate(timeout=max(0.0, deadline - time.monotonic()))
                if code == 0 != one.returncode:
                    code, told = one.returncode, words
        except subprocess.TimeoutExpired as error:
            raise KernelError(f"{commands[0][0]} took more than {BUILD_SEC:.0f} s") from error
    return code, told


@contextmanager
def _started(command: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
    """A process that ends with what is done inside, and all that it has started with it."""
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        errors="replace",
        start_new_session=True,
    ) as process:
        try:
            yield process
        except BaseException:
            with suppress(ProcessLookupError):  # it has ended, and so have all its children
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()  # which Popen doesn't do after an interrupt
            raise


def _processor() -> str:
    """What instructions there are, as far as the system tells."""
    try:
        told = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        return platform.processor()
    names = ("model name", "flags", "Features", "CPU part")
    return "\n".join(sorted({line for line in told if line.startswith(names)}))
