"""What all groups of columns of ``trials`` have in common."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True, kw_only=True)
class ColumnGroup:
    """Some columns of one row of ``trials``, as one part of a trial fills them in.

    Each field is annotated with its type and its description, with the unit. A group holds what its maker knows and
    leaves the other columns at their defaults.
    """

    def known(self) -> dict[str, Any]:
        """Return the values that differ from their column's default, by column name."""
        pairs = ((column, getattr(self, column.name)) for column in fields(self))
        return {column.name: value for column, value in pairs if value != column.default}
