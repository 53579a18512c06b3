"""A table as one frozen record of columns and rows, each value formatted once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from peftbench.report.collect import Cell


@dataclass(frozen=True)
class Column:
    """One column: what its head says and what its raw numbers are called."""

    title: str
    unit: str
    """Of the formatted numbers; empty for a column of words."""
    raw: tuple[str, ...]
    """Names of the raw values behind it, units included; csv has a column for each."""
    short: str | None = None
    """Title in the terminal's table; None leaves the column out there."""
    numeric: bool = True

    @property
    def head(self) -> str:
        """Return "peak train memory (MiB)"."""
        return f"{self.title} ({self.unit})" if self.unit else self.title


@dataclass(frozen=True)
class Value:
    """One entry: as formatted, and the raw values behind it."""

    text: str
    raw: tuple[Any, ...]
    short: str | None = None
    """In the terminal's table, where it differs."""
    sort: float | str | None = None
    """What the page's table sorts by; None sorts last."""
    best: bool = False
    """Whether this is the significantly best score of its column, which the page prints bold."""


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    values: tuple[Value, ...]
    cell: Cell | None = None
    """None for the rows of chance and majority."""
    trouble: str = ""
    """"1 oom" where trials of the cell did not end ok."""


@dataclass(frozen=True)
class Table:
    """Columns, rows, and what must be said under them."""

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]
