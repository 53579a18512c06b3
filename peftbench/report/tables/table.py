"""A table as a frozen record of columns and rows; each value is formatted once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from peftbench.report.collect import Cell


@dataclass(frozen=True)
class Column:
    """One column: its head and the names of its raw numbers."""

    title: str
    unit: str
    """Of the formatted numbers; empty for a column of words."""
    raw: tuple[str, ...]
    """Names of the raw values behind it, units included; csv has a column for each."""
    short: str | None = None
    """Title in the terminal's table; None for a column that is not shown there."""
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
    """Text in the terminal's table if it differs."""


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    values: tuple[Value, ...]
    cell: Cell | None = None
    """None for the rows of chance and majority, and of cells of which no trial has a result yet."""
    trouble: str = ""
    """How trials of the cell failed, like "1 oom"; empty if all ended ok."""


@dataclass(frozen=True)
class Table:
    """Columns, rows and the notes under them."""

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]
