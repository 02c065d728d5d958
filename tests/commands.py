"""`regsearch ...` as a process, or in one in which torch and MLflow are loaded already: a fork of
`tests.template`, or this one."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import chdir, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from pipeline.cli import main
from tests.template import Forked

Done = subprocess.CompletedProcess[str]


def environment(**more: str) -> dict[str, str]:
    """This process's, in which this checkout can be imported from any folder (`conftest`)."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "REGSEARCH_"))}
    return {**kept, "OMP_NUM_THREADS": "1", **more}


def regsearch(*arguments: str, cwd: Path, **env: str) -> Done:
    """As a process."""
    return subprocess.run(
        [sys.executable, "-m", "pipeline", *arguments],
        cwd=cwd,
        env=environment(**env),
        capture_output=True,
        text=True,
        timeout=250,
    )


def regsearch_forked(*arguments: str, cwd: Path, **env: str) -> Done:
    """As a process of its own that begins with all loaded."""
    process = Forked(arguments, cwd, environment(**env))
    out, errors = process.communicate(timeout=250)
    return subprocess.CompletedProcess(arguments, process.wait(), out, errors)


def regsearch_here(*arguments: str, cwd: Path, **env: str) -> Done:
    """In this process, from the entry point on; what it prints, and its exit code.

    Where the start itself isn't what is tested: it costs seconds. A warning fails it here.
    """
    out, errors, code = io.StringIO(), io.StringIO(), 0
    with _as_started(arguments, cwd, env), redirect_stdout(out), redirect_stderr(errors):
        try:
            main()
        except SystemExit as exit_:
            code = exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), errors.getvalue())


@contextmanager
def _as_started(arguments: tuple[str, ...], cwd: Path, env: dict[str, str]) -> Iterator[None]:
    """The arguments, folder and environment that the process would have."""
    with pytest.MonkeyPatch.context() as patch, chdir(cwd):
        patch.setattr(sys, "argv", ["regsearch", *arguments])
        for name in os.environ.keys() - environment(**env).keys():
            patch.delenv(name)
        for name, value in env.items():
            patch.setenv(name, value)
        yield
