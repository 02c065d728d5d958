"""Passwords on the command line: out of the process list before anything else happens."""

from __future__ import annotations

import os
import sys

from pipeline.errors import redact

_OPTION, _VARIABLE = "--storage", "REGSEARCH_STORAGE"


def hide_arguments() -> None:
    """Start this program anew with the store's URL in its environment, if it holds a secret.

    Everybody on a machine can read a process's arguments, but not its environment.
    """
    arguments, url = _without_storage(sys.argv[1:])
    if url is None or redact(url) == url:
        return
    os.environ[_VARIABLE] = url
    program = sys.orig_argv[: len(sys.orig_argv) - len(sys.argv) + 1]
    os.execv(sys.executable, [*program, *arguments])


def _without_storage(arguments: list[str]) -> tuple[list[str], str | None]:
    """The arguments without `--storage URL` or `--storage=URL`, and the last such URL."""
    kept: list[str] = []
    url, takes_next = None, False
    for argument in arguments:
        if takes_next:
            url, takes_next = argument, False
        elif argument == _OPTION:
            takes_next = True
        elif argument.startswith(f"{_OPTION}="):
            url = argument.partition("=")[2]
        else:
            kept.append(argument)
    return kept, url
