"""What a report is made of: sections of sentences, tables and pictures, each with its source."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import plotly.graph_objects as go

_NUMBER = re.compile(r"-?|[-+]?[\d.,]+%?( ± [\d.]+)?")


@dataclass(frozen=True)
class Row:
    """A table's row; `marked` for the winner's, say."""

    cells: tuple[str, ...]
    marked: bool = False


@dataclass(frozen=True)
class Table:
    """Rows under their columns.

    Args:
        folded: words to unfold it by, for a table that is long; empty where it is shown at once.
    """

    caption: str
    columns: tuple[str, ...]
    rows: Sequence[Row]
    folded: str = ""

    @property
    def numeric(self) -> tuple[bool, ...]:
        """Which columns hold numbers alone, which are set flush right."""
        columns = zip(*(row.cells for row in self.rows), strict=True)
        return tuple(all(map(_NUMBER.fullmatch, cells)) for cells in columns)


@dataclass(frozen=True)
class Picture:
    """A figure, and what it shows in a sentence, for those too who can't see it.

    Args:
        narrow: whether several of its kind stand side by side where there is room.
    """

    name: str
    caption: str
    figure: go.Figure
    narrow: bool = False

    @property
    def json(self) -> str:
        """For a script element, which nothing inside can end: plotly writes `<` as an escape."""
        return str(self.figure.to_json())

    @property
    def height(self) -> int:
        """In pixels, kept free before the figure is drawn."""
        return int(self.figure.layout.height)


@dataclass(frozen=True)
class Section:
    """One question, answered.

    Args:
        lead: sentences above tables and pictures.
        points: sentences of a list.
        missing: what is not there and which command makes it, in a sentence; empty where all is.
        source: where the figures come from, so that each can be traced.
    """

    name: str
    title: str
    lead: tuple[str, ...] = ()
    points: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    pictures: tuple[Picture, ...] = ()
    missing: tuple[str, ...] = ()
    source: str = ""
