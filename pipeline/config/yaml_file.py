"""Strict YAML: plain data in which every key knows its line.

The scalars are YAML 1.2's, so `1e-5` is a number and `no` is a string. Duplicate keys, anchors,
aliases, tags and several documents are errors. The tree is built from the parser's events, one by
one: no depth of nesting and no alias can blow it up.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from pipeline.config.yaml_errors import syntax_error
from pipeline.errors import UserError, at

Place = tuple[str | int, ...]
"""The way to a value: mapping keys and sequence positions from the top."""

MAX_BYTES = 64_000  # ten times the longest sensible file; read in well under a second
MAX_DEPTH = 20

_INT = re.compile(r"[-+]?[0-9]{1,18}")
_PREFIXED_INT = re.compile(r"0o[0-7]{1,20}|0x[0-9a-fA-F]{1,15}")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_SPECIAL: dict[str, Any] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".inf", "+.inf", ".Inf", ".INF"), float("inf")),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), float("-inf")),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
}


@dataclass(frozen=True)
class YamlFile:
    """A file's text, its data, and the line (from 1) of every key and item."""

    path: Path
    text: str
    data: dict[str, Any]
    lines: dict[Place, int] = field(repr=False)

    def where(self, place: Place) -> str:
        """`file:line` of a place, or of the nearest enclosing one that the file spells out."""
        while place and place not in self.lines:
            place = place[:-1]
        return at(self.path, self.lines.get(place, 1))


def parse_scalar(text: str) -> Any:
    """The value of a plain scalar: null, a boolean, an integer, a float or the text itself."""
    if text in _SPECIAL:
        return _SPECIAL[text]
    if _INT.fullmatch(text):
        return int(text)
    if _PREFIXED_INT.fullmatch(text):
        return int(text, base=0)
    return float(text) if _FLOAT.fullmatch(text) else text


def read_yaml(path: Path) -> YamlFile:
    """Read a file whose top is a mapping.

    Raises:
        UserError: for a file that can't be read, isn't UTF-8, is too long, or breaks a rule above.
    """
    return parse_yaml(_read_text(path), path)


def parse_yaml(text: str, path: Path) -> YamlFile:
    """The same for a text that is at hand; errors are told of `path`."""
    builder = _Builder(path, text)
    try:
        return builder.build()
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        raise syntax_error(path, text, error, builder.loader.line + 1) from error


def _read_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UserError(
            f"can't read it: {error.strerror}",
            where=str(path),
            rule="the path of a YAML file",
            cure="check the path; `ls search_spaces/` shows the files that come with regsearch",
        ) from error
    if len(raw) > MAX_BYTES:
        raise UserError(
            f"the file has more than {MAX_BYTES:,} bytes",
            where=str(path),
            rule=f"a space file has at most {MAX_BYTES:,} bytes",
            cure="give a search space, not a data file",
        )
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"byte {error.start} is not UTF-8",
            where=at(path, raw[: error.start].count(b"\n") + 1),
            rule="a space file is UTF-8 text",
            cure="save it as UTF-8",
        ) from error


def _line(event: yaml.Event) -> int:
    assert event.start_mark is not None
    return event.start_mark.line + 1


class _Builder:
    """Folds the parser's events into nested dicts and lists, remembering each line."""

    def __init__(self, path: Path, text: str) -> None:
        self.path, self.text = path, text
        self.loader = yaml.SafeLoader("")
        self.lines: dict[Place, int] = {}
        self.root: list[Any] = []
        self.place: list[str | int] = []
        self.open: list[dict[str, Any] | list[Any]] = []
        self.keys: list[str | None] = []

    def build(self) -> YamlFile:
        documents = 0
        for event in self._events():
            documents += isinstance(event, yaml.DocumentStartEvent)
            if documents > 1:
                raise self._error(
                    event, "a second document starts here", "one document a file", "keep one"
                )
            if isinstance(event, yaml.ScalarEvent):
                self._scalar(event)
            elif isinstance(event, yaml.CollectionStartEvent):
                self._start(event)
            elif isinstance(event, yaml.CollectionEndEvent):
                self._end()
        data = self.root[0] if self.root else None
        if not isinstance(data, dict):
            raise UserError(
                "the file is empty" if data is None else "the file is not a mapping",
                where=at(self.path, self.lines.get((), 1)),
                rule="a mapping with `study`, `data`, `model`, `search` ... at its top",
                cure="start from a file in search_spaces/",
            )
        return YamlFile(self.path, self.text, data, self.lines)

    def _events(self) -> Iterator[yaml.Event]:
        self.loader = yaml.SafeLoader(self.text)
        while self.loader.check_event():
            event: yaml.Event = self.loader.get_event()  # type: ignore[no-untyped-call]
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
                raise self._not_plain(event, "an anchor (`&`) or an alias (`*`)")
            if tag := getattr(event, "tag", None):
                raise self._not_plain(event, f"the tag {tag!r}")
            yield event

    def _not_plain(self, event: yaml.Event, what: str) -> UserError:
        cure = "write the value out; put text that starts with `&`, `*` or `!` in quotes"
        return self._error(event, what, "plain values only", cure)

    def _error(self, event: yaml.Event, what: str, rule: str, cure: str) -> UserError:
        return UserError(what, where=at(self.path, _line(event)), rule=rule, cure=cure)

    def _scalar(self, event: yaml.ScalarEvent) -> None:
        event.value.encode()  # raises for half of a surrogate pair
        if self.open and isinstance(self.open[-1], dict) and self.keys[-1] is None:
            self._key(event)
        else:
            plain = event.style is None
            self._put(event, parse_scalar(event.value) if plain else event.value)

    def _key(self, event: yaml.ScalarEvent) -> None:
        key, line = str(event.value), _line(event)
        place = (*self.place, key)
        if place in self.lines:
            raise UserError(
                f"`{'.'.join(map(str, place))}` is given twice, first on line {self.lines[place]}",
                where=at(self.path, line),
                rule="a key stands once",
                cure="delete one of the two",
            )
        self.lines[place] = line
        self.keys[-1] = key

    def _put(self, event: yaml.Event, value: Any) -> None:
        """Store a value in the innermost open collection and note where it stands."""
        if not self.open:
            self.lines[()] = _line(event)
            self.root.append(value)
        elif isinstance(container := self.open[-1], list):
            self.lines[(*self.place, len(container))] = _line(event)
            container.append(value)
        else:
            container[str(self.keys[-1])] = value
            self.keys[-1] = None

    def _start(self, event: yaml.CollectionStartEvent) -> None:
        if len(self.open) == MAX_DEPTH:
            raise self._error(
                event, "nested too deeply", f"at most {MAX_DEPTH} levels", "close some brackets"
            )
        parent = self.open[-1] if self.open else None
        if isinstance(parent, dict) and self.keys[-1] is None:
            raise self._error(
                event, "a key that is a list or a mapping", "keys are plain words", "name the key"
            )
        step = len(parent) if isinstance(parent, list) else self.keys[-1] if self.keys else None
        value: dict[str, Any] | list[Any] = {} if isinstance(event, yaml.MappingStartEvent) else []
        self._put(event, value)
        if step is not None:
            self.place.append(step)
        self.open.append(value)
        self.keys.append(None)

    def _end(self) -> None:
        self.open.pop()
        self.keys.pop()
        if self.open:
            self.place.pop()
