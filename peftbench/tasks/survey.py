"""The columns of records that nobody has described: which hold labels, ids or texts. No torch.

Used by ``peftbench init``; a suite says itself what its columns are.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from peftbench.tasks.values import shown

MOST_CLASSES = 200
"""Most distinct values of a column whose name says that it holds labels."""
_FEW_CLASSES, _EACH, _LABEL_CHARACTERS = 20, 10, 40
"""A column without such a name holds labels if it has few short values, each with many examples."""
_IDS = (
    "id",
    "idx",
    "index",
    "guid",
    "uid",
    "uuid",
    "qid",
    "url",
    "link",
    "split",
    "hash",
    "unnamed: 0",
    "date",
    "time",
)
_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?")
_WORDS_OF_NAME = 4


@dataclass(frozen=True)
class Column:
    """One column of the records."""

    name: str
    counts: Mapping[str, int]
    """Text of each value -> number of records with it; missing and empty ones are left out."""
    missing: int
    """Records without a value, or with an empty one."""
    rows: int
    nested: Any = None
    """The first value that is a list or a mapping; None if all are plain."""

    @property
    def distinct(self) -> int:
        """The number of different values."""
        return len(self.counts)

    @cached_property
    def characters(self) -> float:
        """The mean number of characters of a value."""
        present = sum(self.counts.values())
        return sum(len(text) * count for text, count in self.counts.items()) / present if present else 0.0

    @cached_property
    def words(self) -> float:
        """The mean number of words of a value."""
        present = sum(self.counts.values())
        return sum(len(text.split()) * count for text, count in self.counts.items()) / present if present else 0.0

    @cached_property
    def numeric(self) -> bool:
        """Whether every value is a number."""
        return bool(self.counts) and all(_NUMBER.fullmatch(text) for text in self.counts)

    @property
    def is_id(self) -> bool:
        """Whether it seems to number or date the records."""
        name = self.name.strip().lower()
        counted = self.numeric and self.distinct == self.rows > 1
        return name in _IDS or name.endswith("_id") or (counted and not name.startswith("label"))

    @property
    def is_text(self) -> bool:
        """Whether it holds texts that a prompt or an answer can be made of."""
        return self.nested is None and not self.numeric and not self.is_id and self.distinct > 0

    @property
    def repeats(self) -> bool:
        """Whether its values are few and short enough for classes, whatever its name says."""
        few = 2 <= self.distinct <= _FEW_CLASSES and self.rows >= _EACH * self.distinct
        return self.nested is None and few and self.characters <= _LABEL_CHARACTERS

    @property
    def example(self) -> str:
        """One value, shortened, for messages."""
        if self.nested is not None:
            return "a list" if isinstance(self.nested, list) else "a mapping"
        text = next(iter(self.counts), "")
        return f"{text[:57]!r}..." if len(text) > 60 else repr(text)


def columns(rows: Sequence[Mapping[str, Any]]) -> list[Column]:
    """Return the columns of records, in the order of their first appearance."""
    names = dict.fromkeys(name for row in rows for name in row)
    return [_column(name, [row.get(name) for row in rows]) for name in names]


def _column(name: str, values: Sequence[Any]) -> Column:
    nested = next((value for value in values if isinstance(value, list | dict)), None)
    texts = (str(value).strip() for value in values if value is not None and not isinstance(value, list | dict))
    counts = Counter(text for text in texts if text)
    inside = sum(isinstance(value, list | dict) for value in values)
    return Column(shown(name), dict(counts.most_common()), len(values) - counts.total() - inside, len(values), nested)


def without_header(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether the names of a CSV or TSV file's columns are values: the file has no header.

    That is so if a name is a number or a sentence, or if it is among the values of its own column.
    """
    names = [str(name) for name in (rows[0] if rows else {})]
    if any(_NUMBER.fullmatch(name.strip()) or len(name.split()) > _WORDS_OF_NAME for name in names):
        return True
    return any(sum(str(row.get(name)) == name for row in rows) > 1 for name in names if name)
