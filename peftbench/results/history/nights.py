"""The nights of a history: results folders in the order of their dates, read by columns, which is quick for hundreds.

A folder that cannot be read is a note, and the other nights are judged without it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from peftbench.errors import UserError
from peftbench.records.wording import abridged
from peftbench.results import folder as folders
from peftbench.results import store

Row = Mapping[str, Any]
Cell = tuple[str, str]
"""Base model and name."""
DATE = re.compile(r"\d{4}-\d{2}-\d{2}(?:[T_ -]?\d{2}[:.-]?\d{2}(?:[:.-]?\d{2})?)?")
"""A date, perhaps with a time, in the name of a night's folder."""


@dataclass(frozen=True)
class Night:
    """One results folder."""

    name: str
    """The folder's name; its path if another night has the same name."""
    date: str
    """The date in the folder's name, else the day on which its last trial ended; empty if neither is known."""
    folder: Path
    rows: tuple[Row, ...]
    """Rows of the recorded grid, or the latest of each cell and seed."""
    unfinished: int = 0
    """Trials of the recorded grid that have no row."""

    @cached_property
    def cells(self) -> Mapping[Cell, tuple[Row, ...]]:
        """The rows of each cell."""
        found: dict[Cell, list[Row]] = {}
        for row in self.rows:
            found.setdefault((str(row["base"]), str(row["cell"])), []).append(row)
        return {cell: tuple(rows) for cell, rows in found.items()}


@dataclass(frozen=True)
class Nights:
    """All nights of a history, the oldest first."""

    found: tuple[Night, ...]
    notes: tuple[str, ...]
    """What was left out, and why."""
    newest_lost: bool = False
    """Whether a night that could not be read is newer than all others, as far as the dates in folders' names say."""


def places(given: Sequence[Path]) -> list[Path]:
    """Return the results folders that paths name: themselves, or the folders in them.

    Raises:
        UserError: if a path is neither a results folder nor a folder that has some in it.
    """
    found: list[Path] = []
    for path in given:
        inside = sorted(each for each in path.iterdir() if _is_night(each)) if _is_folder_of_nights(path) else []
        found += inside or [_existing(path)]
    return list({path.resolve(): path for path in found}.values())


def _existing(path: Path) -> Path:
    """Return a results folder; one level above the nights, name the folders that hold them."""
    above = sorted({trials.parent.parent for trials in path.glob("*/*/trials")}) if _is_folder_of_nights(path) else []
    if above:
        raise UserError(f"{path} holds no nights, but these in it do: {abridged([str(each) for each in above], 5)}")
    return folders.existing(path)


def _is_folder_of_nights(path: Path) -> bool:
    return path.is_dir() and not (path / "trials").is_dir()


def _is_night(path: Path) -> bool:
    """Whether a folder is a night, also a broken one that has only the name of a night."""
    return path.is_dir() and ((path / "trials").is_dir() or DATE.match(path.name) is not None)


def read(given: Sequence[Path], columns: Iterable[str]) -> Nights:
    """Read all nights.

    Args:
        given: results folders, or folders of them.
        columns: what is read of each row, besides what identifies it and the scores.

    Raises:
        UserError: if a path is no such folder.
    """
    wanted = {"key", "suite", "base", "cell", "seed", "status", "finished_at", *columns}
    same_text: dict[str, str] = {}
    nights, notes, lost = [], [], [""]
    for place in places(given):
        try:
            grid = store.recorded_grid(place)
            rows = _rows_of_grid(store.read_rows(place, wanted), grid)
        except UserError as error:
            notes.append(f"left out: {error}")
            lost.append(_date(place, ()))
            continue
        unfinished = len(set(grid.keys) - {row["key"] for row in rows}) if grid else 0
        rows = [{name: _once(value, same_text) for name, value in row.items()} for row in rows]
        nights.append(Night(place.name, _date(place, rows), place, tuple(rows), unfinished))
    nights.sort(key=lambda night: (night.date, night.name))
    names = [night.name for night in nights]
    unique = [night if names.count(night.name) == 1 else replace(night, name=str(night.folder)) for night in nights]
    return Nights(tuple(unique), tuple(notes), bool(nights) and max(lost) > nights[-1].date)


def _once(value: Any, same_text: dict[str, str]) -> Any:
    """Return a text as the object that stands for it in all rows: settings of hundreds of nights repeat."""
    return same_text.setdefault(value, value) if isinstance(value, str) else value


def _rows_of_grid(rows: list[dict[str, Any]], grid: store.RecordedGrid | None) -> list[dict[str, Any]]:
    """Return the rows that a folder is about, as ``rows.rows_of_grid`` does of a frame."""
    if grid is not None:
        keys = set(grid.keys)
        chosen = [row for row in rows if row["key"] in keys]
        if not chosen:
            raise UserError(f"none of the {len(keys)} trials of the last command has a result yet")
        return chosen
    latest: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in sorted(rows, key=lambda row: row["finished_at"] or ""):
        latest[row["base"], row["cell"], row["seed"]] = row
    return list(latest.values())


def _date(place: Path, rows: Iterable[Row]) -> str:
    dated = DATE.search(place.name)
    if dated:
        return dated.group()
    return max((str(row["finished_at"] or "") for row in rows), default="")[:19]
