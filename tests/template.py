"""Processes that are forked from one that has loaded torch, Optuna, MLflow and all of regsearch.

To load them takes a process ten seconds on a slow machine, and the process that its workers are
forked from as long again. Where the start itself isn't what is tested, `Forked` is
`subprocess.Popen` without it: a process of its own, with its own group, folder, environment,
output and signals.
"""

from __future__ import annotations

import array
import fcntl
import importlib
import inspect
import json
import math
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from multiprocessing import util
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NoReturn

import numpy

ROOT = Path(__file__).parents[1]
POLL_SEC = 0.02
COMMAND = "pipeline.__main__:command"
LOADED = (
    *("trial", "search", "outcome", "followups", "sync", "doctor", "evaluation", "mirroring"),
    *("exported_model", "report.summary", "cli"),
)
"""Of `pipeline`, with all that they import."""


class Forked:
    """A function in a process of its own that ends with it; otherwise as `subprocess.Popen`.

    Args:
        arguments: it finds them in `sys.argv`, after the program's name.
        env: its whole environment; the number of OpenMP's threads is the template's, one.
        output: what it prints, and its complaints, go to this file; `stdout` and `stderr` without.
        target: the function, as `module:name`.
        start: once all is loaded, it writes a byte to the first of these pipes, and begins when the
            other end of the second is closed.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        cwd: Path,
        env: Mapping[str, str],
        output: IO[Any] | None = None,
        target: str = COMMAND,
        start: tuple[int, int] | None = None,
    ) -> None:
        self.returncode: int | None = None
        self.stdout: IO[str] | None = None
        self.stderr: IO[str] | None = None
        self._told = ["", ""]
        self._readers: list[threading.Thread] = []
        request = {
            "argv": ["regsearch", *arguments],
            "cwd": str(cwd),
            "env": dict(env),
            "target": target,
        }
        pipes = [] if start is None else [*start]
        if output is not None:
            self.pid = template().ask(request, [output.fileno(), output.fileno(), *pipes])
        else:
            (out, out_end), (errors, errors_end) = os.pipe(), os.pipe()
            self.stdout, self.stderr = os.fdopen(out), os.fdopen(errors)
            try:
                self.pid = template().ask(request, [out_end, errors_end, *pipes])
            finally:
                os.close(out_end)
                os.close(errors_end)

    def __enter__(self) -> Forked:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> None:
        """Waits for its end; where its user has failed, makes it end, with all that it started."""
        if kind is not None and self.poll() is None:
            os.killpg(self.pid, signal.SIGKILL)
        self.communicate()

    def poll(self) -> int | None:
        """Its exit code, or minus the signal that killed it; None while it runs."""
        return self._ended(0.0)

    def wait(self, timeout: float | None = None) -> int:
        code = self._ended(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0.0)
        return code

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """What it prints from here on, and its complaints; nothing of it is lost by a timeout."""
        started = time.monotonic()
        if not self._readers:
            streams = (self.stdout, self.stderr)
            for each in enumerate(stream for stream in streams if stream is not None):
                self._readers.append(threading.Thread(target=self._read, args=each, daemon=True))
                self._readers[-1].start()
        self.wait(timeout)
        for reader in self._readers:  # until all who share its output have ended, too
            left = None if timeout is None else max(0.0, started + timeout - time.monotonic())
            reader.join(left)
            if reader.is_alive():
                raise subprocess.TimeoutExpired(f"who has the output of {self.pid}", timeout or 0.0)
        return self._told[0], self._told[1]

    def _read(self, index: int, stream: IO[str]) -> None:
        with stream:
            self._told[index] = stream.read()

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _ended(self, timeout: float | None) -> int | None:
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        while True:
            if self.returncode is None:
                self.returncode = template().ask({"ended": self.pid})
            if self.returncode is not None or time.monotonic() >= deadline:
                return self.returncode
            time.sleep(POLL_SEC)


def forked(
    function: Callable[[], object], *arguments: str, start: tuple[int, int] | None = None
) -> Forked:
    """A function of a module, in this folder and environment; see `Forked`."""
    # pytest's name for a file of tests is another one than everybody's
    module = ".".join(Path(inspect.getfile(function)).relative_to(ROOT).with_suffix("").parts)
    target = f"{module}:{function.__name__}"
    return Forked(arguments, Path.cwd(), os.environ, target=target, start=start)


def forked_at_once(
    function: Callable[[], object], arguments: Sequence[Sequence[str]]
) -> list[Forked]:
    """A process for each of the arguments; all begin at the same instant, once all are there."""
    (ready, tells), (closed, gate) = os.pipe(), os.pipe()
    try:
        try:
            processes = [forked(function, *each, start=(tells, closed)) for each in arguments]
        finally:
            os.close(tells)
            os.close(closed)
        for _ in processes:
            os.read(ready, 1)  # nothing, once those that are left have failed to load it
        return processes
    finally:
        os.close(ready)
        os.close(gate)  # which those who read from it are told


class Template:
    """The process that has loaded it all, as its user sees it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(theirs.fileno())],
                cwd=ROOT,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )

    def ask(self, request: Mapping[str, Any], descriptors: Sequence[int] = ()) -> Any:
        with self._lock:
            answer = b""
            try:
                _send(self._socket, request, descriptors)
                answer = self._socket.recv(32)
            finally:
                if not answer:  # nor can another answer be told from this one's
                    self._socket.close()
                    template.cache_clear()
        assert answer, f"the template has ended with {self._process.wait()}"
        return json.loads(answer)


@cache
def template() -> Template:
    """This process's; it ends with it."""
    return Template()


def serve(control: socket.socket) -> None:
    """Fork what is asked for, and tell how it ended, until nobody is left to ask."""
    while request := _receive(control):
        message, descriptors = request
        if "ended" in message:
            ended, status = os.waitpid(message["ended"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if ended else None
        else:
            answer = os.fork()
            if answer == 0:
                control.close()
                _become(message, descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
        control.sendall(json.dumps(answer).encode())


def _become(message: Mapping[str, Any], descriptors: Sequence[int]) -> NoReturn:
    """The process that was asked for."""
    code = 1
    try:
        os.setsid()
        for standard in (1, 2):
            os.dup2(descriptors[standard - 1], standard)
            os.close(descriptors[standard - 1])
        os.chdir(message["cwd"])
        os.environ.clear()
        os.environ.update(message["env"])
        time.tzset()
        random.seed()
        numpy.random.seed()
        _have_a_forkserver_ready()
        sys.argv = list(message["argv"])
        module, _, name = str(message["target"]).partition(":")
        sys.modules["__main__"] = importlib.import_module(module)  # workers look for it
        if len(descriptors) > 2:
            tells, gate = descriptors[2:]
            os.write(tells, b".")
            os.close(tells)
            os.read(gate, 1)
            os.close(gate)
        getattr(sys.modules["__main__"], name)()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if not isinstance(end.code, int | None):
            print(end.code, file=sys.stderr)
    finally:
        _leave(code)


def _leave(code: int) -> NoReturn:
    """From within `finally`: nothing of the template's goes on in its fork."""
    if sys.exc_info()[0] is not None:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _have_a_forkserver_ready() -> None:
    """A child that becomes what multiprocessing forks workers from, the first time that it wants
    that. It can't be forked only then: there may be threads."""
    ours, theirs = socket.socketpair()
    child = os.fork()
    if child == 0:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})  # as it begins
        ours.close()
        code = 1
        try:
            _become_forkserver(theirs)
            code = 0
        except SystemExit:  # nobody is left who wants workers
            code = 0
        finally:
            _leave(code)
    theirs.close()
    start = util.spawnv_passfds

    def spawnv_passfds(path: Any, args: Sequence[Any], passfds: Sequence[int]) -> int:
        if ours.fileno() < 0 or "multiprocessing.forkserver" not in str(args[-1]):
            return start(path, args, passfds)
        numbers = [int(each) for each in passfds]
        message = {"code": args[-1], "numbers": numbers, "env": dict(os.environ)}
        _send(ours, message, numbers)
        ours.close()
        return child

    util.spawnv_passfds = spawnv_passfds


def _become_forkserver(control: socket.socket) -> None:
    request = _receive(control)
    control.close()
    if request is None:
        return
    message, descriptors = request
    # Under the numbers that they have in the process that asks.
    above = max(message["numbers"]) + 1
    high = [fcntl.fcntl(each, fcntl.F_DUPFD, above) for each in descriptors]
    for descriptor, number in zip(high, message["numbers"], strict=True):
        os.dup2(descriptor, number)
    for descriptor in {*descriptors, *high} - set(message["numbers"]):
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(message["env"])
    exec(message["code"])


def _send(to: socket.socket, message: Mapping[str, Any], descriptors: Sequence[int]) -> None:
    data = json.dumps(message).encode()
    rights = array.array("i", descriptors)
    to.sendmsg([len(data).to_bytes(8, "big")], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
    to.sendall(data)


def _receive(source: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    head, descriptors, _, _ = socket.recv_fds(source, 8, 8)
    if not head:
        return None
    data = b""
    while len(data) < int.from_bytes(head, "big"):
        part = source.recv(int.from_bytes(head, "big") - len(data))
        if not part:  # who asked is gone
            return None
        data += part
    return json.loads(data), list(descriptors)


if __name__ == "__main__":
    for loaded in LOADED:
        importlib.import_module(f"pipeline.{loaded}")
    importlib.import_module("pipeline.exported_model").load_ahead()
    serve(socket.socket(fileno=int(sys.argv[1])))
