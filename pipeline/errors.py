"""The errors that a user is told about: what is wrong, where, the rule, and the cure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path


class UserError(Exception):
    """A mistake that the user can mend. The command line prints it and exits with code 2.

    Args:
        what: what is wrong, with the offending value ("`regularization.dropout` is 1.5").
        where: the file and line, the option or the setting it was found in.
        rule: what would be accepted.
        cure: what to do now, as an imperative.
    """

    def __init__(self, what: str, *, where: str = "", rule: str = "", cure: str = "") -> None:
        super().__init__(what)
        self.what, self.where, self.rule, self.cure = what, where, rule, cure

    def __str__(self) -> str:
        lines = [f"{self.where}: {self.what}" if self.where else self.what]
        lines += [f"  rule: {self.rule}"] if self.rule else []
        lines += [f"  do:   {self.cure}"] if self.cure else []
        return "\n".join(lines)


class UserErrors(UserError):  # noqa: N818 - several of them
    """Several mistakes found at once, told together."""

    def __init__(self, errors: Sequence[UserError]) -> None:
        super().__init__(f"{len(errors)} mistakes")
        self.errors = tuple(errors)

    def __str__(self) -> str:
        return "\n".join(map(str, self.errors))


def at(file: str | Path, line: int) -> str:
    """`file:line`, the form that terminals and editors turn into a link."""
    return f"{file}:{line}"


_USER_INFO = re.compile(r"(?<=://)[^\s/'\"][^\s'\"]*@")
_SECRET_PARAMETER = re.compile(r"([?&][^=&\s]*(?:pass|secret|token|key)[^=&\s]*=)[^&\s'\"]*", re.I)


def redact(text: str) -> str:
    """The text with user names, passwords and tokens in its URLs replaced by `***`."""
    return _SECRET_PARAMETER.sub(r"\1***", _USER_INFO.sub("***@", text))
