"""Decides what a report is made of, apart from how it looks: the same blocks become HTML and text.

All strings are plain text; `code` in backticks is the only markup. Writers escape the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Paragraph:
    """A paragraph of text."""

    text: str


@dataclass(frozen=True, slots=True)
class Bullets:
    """A list of short texts."""

    items: Sequence[str]


@dataclass(frozen=True, slots=True)
class Code:
    """Text to be copied, such as a command or a configuration."""

    text: str


@dataclass(frozen=True, slots=True)
class Table:
    """A table; the first cell of a row is its header.

    Attributes:
        caption: What the table shows, with the unit.
        columns: Headers.
        rows: Cells as shown.
        text_columns: Indices of the columns of words, beside the first; the others are numbers.
        marked_rows: Indices of rows that say something definite.
        warned_rows: Indices of rows in which something is missing.
        group_starts: Indices of rows that open a group.
        sortable: Whether a reader may want another order.
    """

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    text_columns: Sequence[int] = ()
    marked_rows: Sequence[int] = ()
    warned_rows: Sequence[int] = ()
    group_starts: Sequence[int] = ()
    sortable: bool = False


@dataclass(frozen=True, slots=True)
class Panel:
    """One plot.

    Attributes:
        title: Above the plot.
        description: What it shows, for readers who do not see it.
        figure: `data` and `layout` of plotly.js. A colour is "@" and its name in page.js, which
            knows the light and the dark one.
    """

    title: str
    description: str
    figure: dict[str, Any] = field(hash=False)


@dataclass(frozen=True, slots=True)
class Panels:
    """Plots side by side where there is room.

    Attributes:
        panels: The plots.
        small: Whether they are many and small.
    """

    panels: Sequence[Panel]
    small: bool = False


@dataclass(frozen=True, slots=True)
class Columns:
    """Tables side by side where there is room."""

    tables: Sequence[Table]


@dataclass(frozen=True, slots=True)
class Details:
    """Blocks that are shown on demand."""

    summary: str
    blocks: Sequence[Block]


Block = Paragraph | Bullets | Code | Table | Panels | Columns | Details


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the report under its own heading."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True, slots=True)
class Report:
    """A whole report.

    Attributes:
        finding: The title: one sentence.
        summary: What was run and measured, in a few words each.
        lede: What the finding rests on, in a few sentences.
        warnings: What the reader must know before believing the finding.
        sections: In order.
    """

    finding: str
    summary: Sequence[str]
    lede: str
    warnings: Sequence[str]
    sections: Sequence[Section]
