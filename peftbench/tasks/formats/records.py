"""What reading a file gives: its records, where each is in the file, and what was found or dropped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Records:
    """The records of a file or of a dataset's split."""

    rows: Sequence[Any]
    """One mapping of field names to values per record; checked by ``files.read``."""
    lines: Sequence[int] = ()
    """The line of the file on which each record begins, counted from 1; empty if the format has no lines."""
    notes: tuple[str, ...] = ()
    """What was found or dropped, as sentences without a full stop: the delimiter, quotes, empty columns, ..."""

    def place(self, index: int) -> str:
        """Return where a record is: ``line 3 (example 2)``, or ``example 2``."""
        example = f"example {index + 1}"
        return f"line {self.lines[index]} ({example})" if self.lines else example


@dataclass(frozen=True)
class Layout:
    """What the suite says about a file; None where it is found out from the file."""

    delimiter: str | None = None
    quoting: str | None = None
    """``minimal``: quotes may enclose a field; ``none``: quotes are text."""
    columns: tuple[str, ...] = ()
    """Column names of a file without a header line."""
