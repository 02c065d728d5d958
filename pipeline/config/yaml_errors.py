"""PyYAML's complaints in the words of someone who writes a space file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import yaml

from pipeline.errors import UserError, at

SYNTAX = "YAML: `key: value` lines, indented by spaces; `{...}` and `[...]` in pairs"
"""The rule that is told where the text is no YAML."""


class _Mistake(NamedTuple):
    said: str
    """A pattern of PyYAML's words."""
    what: str
    cure: str
    at_start: bool = False
    """Whether the line to mend is where the construct begins, not where the parser gave up."""


_MISTAKES = (
    _Mistake(r"'\\t'", "a tab where spaces belong", "put spaces in its place"),
    _Mistake(r"escape (character|sequence)", "a backslash in double quotes", "use single quotes"),
    _Mistake(r"quoted scalar", "this quote is never closed", "close it", at_start=True),
    _Mistake(
        r"flow mapping",
        "this `{` is never closed, or a comma is missing",
        "close it with `}`, or add the comma",
        at_start=True,
    ),
    _Mistake(
        r"flow sequence",
        "this `[` is never closed, or a comma is missing",
        "close it with `]`, or add the comma",
        at_start=True,
    ),
    _Mistake(
        r"simple key",
        "a key without a `:`",
        "write `key: value`, with a space after the colon",
        at_start=True,
    ),
    _Mistake(r"block end", "an indentation that fits no line above", "indent it as its neighbours"),
    _Mistake(r"mapping values", "a second `: ` in one line", "put the value in quotes or braces"),
    _Mistake(r"cannot start", "a value that starts with a special character", "put it in quotes"),
)


def syntax_error(path: Path, text: str, error: Exception, line: int) -> UserError:
    """What to tell the user.

    Args:
        path: the file.
        text: what it contains.
        error: PyYAML's error, or that of `chr` and `encode` for a quoted `\\U` of no character.
        line: the line that the parser has come to, from 1.
    """
    if isinstance(error, yaml.MarkedYAMLError):
        return _grammar_error(path, error, line)
    if isinstance(error, yaml.reader.ReaderError):
        return UserError(
            f"a character that YAML forbids (code {error.character})",
            where=at(path, text[: error.position].count("\n") + 1),
            rule="printable text only",
            cure="remove the character",
        )
    return UserError(
        "an escape (`\\u`, `\\U`) that stands for no character",
        where=at(path, line),
        rule="a code point of Unicode, and no half of a pair",
        cure="write the character itself",
    )


def _grammar_error(path: Path, error: yaml.MarkedYAMLError, line: int) -> UserError:
    said = f"{error.context} {error.problem}"
    unknown = _Mistake("", f"not valid YAML: {error.problem or error.context}", "mend the line")
    mistake = next((mistake for mistake in _MISTAKES if re.search(mistake.said, said)), unknown)
    mark = error.context_mark if mistake.at_start else error.problem_mark
    return UserError(
        mistake.what,
        where=at(path, mark.line + 1 if mark else line),
        rule=SYNTAX,
        cure=mistake.cure,
    )
