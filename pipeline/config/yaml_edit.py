"""Changes to a YAML text that leave the rest of it as its author wrote it.

The parser tells where each value begins and ends, so a value is replaced in place: comments, order,
blank lines and columns stay. (A round trip through a YAML library keeps comments, but lays every
line out anew.) The text is plain as `yaml_file` has it: no anchors, tags or second document.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from pipeline.config.yaml_file import parse_scalar

Path = Sequence[str]
_Pair = tuple[yaml.Node, yaml.Node]
_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_./+-]*")


class YamlEdit:
    """A text whose top is a mapping, with changes.

    Attributes:
        text: as it is by now.
    """

    def __init__(self, text: str) -> None:
        self.text = text if text.endswith("\n") else f"{text}\n"

    def has(self, path: Path) -> bool:
        """Whether the text has a key."""
        return self._find(path) is not None

    def set(self, path: Path, value: Any, after: str | None = None) -> None:
        """Give a key another value; a new one stands after `after`.

        Without that it is the first of a block, or the last in braces.
        """
        pair = self._find(path)
        if pair is not None:
            start, end = _index(pair[1].start_mark), _end(pair[1])
            gap = " " if start == end else ""  # `key:` and nothing
            self._splice(start, end, gap + written(value))
            return
        *sections, key = path
        found = self._find(sections)
        parent = found[1] if found else None if sections else self._root()
        if isinstance(parent, yaml.MappingNode):
            self._insert(parent, key, written(value), after)
        else:
            self.set(sections, {key: value})

    def remove(self, path: Path) -> None:
        """Take a key out, with its value and the comment in its line."""
        pair = self._find(path)
        if pair is None:
            return
        parent = self._mapping(path[:-1])
        start, end = _index(pair[0].start_mark), _end(pair[1])
        if not parent.flow_style:
            self._splice(self._line_start(start), self._line_end(end) + 1, "")
        elif comma := re.match(r"\s*,\s*", self.text[end:]):
            self._splice(start, end + comma.end(), "")
        else:
            before = re.search(r"(\s*,)?\s*$", self.text[:start])
            self._splice(before.start() if before else start, end, "")

    def comment(self, path: Path, words: str) -> None:
        """Add a comment to the end of the line in which a value ends, after one that is there.

        Nothing is added twice.
        """
        pair = self._find(path)
        assert pair is not None, path
        key, value = pair
        inner = isinstance(value, yaml.MappingNode) and not value.flow_style
        end = self._line_end(key.end_mark.index if inner else _end(value))
        line = self.text[self._line_start(end) : end]
        if words in line:
            return
        number = self.text.count("\n", 0, end)
        tokens = (t for t in yaml.scan(self.text, yaml.SafeLoader) if t.end_mark.line == number)
        code = max((token.end_mark.column for token in tokens), default=0)
        sign = "; " if "#" in line[code:] else "  # "
        self._splice(self._line_start(end), end, line.rstrip() + sign + words)

    def _insert(self, parent: yaml.MappingNode, key: str, value: str, after: str | None) -> None:
        if parent.flow_style:
            own = next((v for k, v in parent.value if k.value == after), None)
            last = own or (parent.value[-1][1] if parent.value else None)
            end = _end(last) if last else _index(parent.start_mark) + 1
            self._splice(end, end, f"{', ' if last else ''}{key}: {value}")
            return
        at = next((self._line_end(_end(v)) + 1 for k, v in parent.value if k.value == after), None)
        if at is None:
            first = parent.value[0][0].start_mark
            at = self._above_comments(_index(first)) if first.column == 0 else _index(first)
            at = self._line_start(at)
        indent = " " * parent.value[0][0].start_mark.column
        self._splice(at, at, f"{indent}{key}: {value}\n")

    def _above_comments(self, index: int) -> int:
        """The start of the comment lines right above a line, if there are any."""
        start = self._line_start(index)
        while start and self.text[self._line_start(start - 1) :].startswith("#"):
            start = self._line_start(start - 1)
        return start

    def _root(self) -> yaml.MappingNode:
        root = yaml.compose(self.text, yaml.SafeLoader)
        assert isinstance(root, yaml.MappingNode)
        return root

    def _mapping(self, path: Path) -> yaml.MappingNode:
        pair = self._find(path) if path else None
        node = pair[1] if pair else self._root()
        assert isinstance(node, yaml.MappingNode), path
        return node

    def _find(self, path: Path) -> _Pair | None:
        node: yaml.Node = self._root()
        pair: _Pair | None = None
        for name in path:
            pairs = node.value if isinstance(node, yaml.MappingNode) else []
            pair = next(((k, v) for k, v in pairs if k.value == name), None)
            if pair is None:
                return None
            node = pair[1]
        return pair

    def _splice(self, start: int, end: int, new: str) -> None:
        self.text = self.text[:start] + new + self.text[end:]

    def _line_start(self, index: int) -> int:
        return self.text.rfind("\n", 0, index) + 1

    def _line_end(self, index: int) -> int:
        return self.text.index("\n", index)


def _index(mark: yaml.Mark) -> int:
    return int(mark.index)


def _end(node: yaml.Node) -> int:
    """Where a value ends. A block's own mark lies after the comments that follow it."""
    if isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        return _end(last[1] if isinstance(last, tuple) else last)
    return _index(node.end_mark)


def written(value: Any) -> str:
    """A value as it stands in a YAML text, in one line: `[0.5, none]`, `{kind: step}`."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{k}: {written(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(written, value))}]"
    if isinstance(value, str):
        plain = _PLAIN.fullmatch(value) and parse_scalar(value) == value
        return value if plain else json.dumps(value, ensure_ascii=False)
    if isinstance(value, float):
        return re.sub(r"e([-+])0*(\d)", r"e\1\2", repr(value)).replace("e+", "e")
    return "null" if value is None else str(value).lower()
