"""The record of a results folder's last run: which trials it is about, and what reports show of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from peftbench.errors import UserError
from peftbench.records.watch import Watch, from_plain
from peftbench.results.store import files


@dataclass(frozen=True)
class CellAxes:
    """What a cell of a recorded grid is, before any of its trials has a row."""

    method: str
    precision: str
    rank: int | None
    """None if its method has none."""


@dataclass(frozen=True)
class RecordedGrid:
    """The trials of the last run of a folder. Rows of other trials are from earlier settings or other suites."""

    keys: tuple[str, ...]
    """Keys of the suite's whole grid with its overrides, in the suite's order, whether they have run or not."""
    command: str
    """Command that runs it."""
    strict: bool = False
    """Whether it is an error if rows differ in anything but the axes of the grid."""
    parameters: int | None = None
    """Number of trainable parameters that ranks were chosen for; None if ranks were given."""
    watch: Watch | None = None
    """What a comparison with another night judges; None if the suite does not say it."""
    cells: Mapping[str, str] = field(default_factory=dict)
    """Key -> the trial's cell; empty in older folders."""
    bases: Mapping[str, str] = field(default_factory=dict)
    """Key -> the trial's base model, where the grid has several; empty where it has one, and in older folders."""
    axes: Mapping[str, CellAxes] = field(default_factory=dict)
    """Cell -> what it is; empty in older folders."""
    ladder: str | None = None
    """What each cell stands beside in the ladder of a report: ``previous`` or ``first``; None for no ladder."""


def recorded_grid(folder: Path | str) -> RecordedGrid | None:
    """Return the grid that was recorded last; None if none was, as in the oldest results.

    Raises:
        UserError: if the record cannot be read.
    """
    path = Path(folder) / files.GRID
    try:
        found = json.loads(path.read_bytes())
        more = {name: found[name] for name in ("strict", "parameters") if name in found}
        if found.get("ladder") in ("previous", "first"):
            more["ladder"] = found["ladder"]
        if found.get("watch") is not None:
            more["watch"] = from_plain(found["watch"])
        for name in ("cells", "bases"):
            if isinstance(found.get(name), dict):
                more[name] = {str(key): str(value) for key, value in found[name].items()}
        if isinstance(found.get("axes"), dict):
            more["axes"] = {cell: axes for cell, given in found["axes"].items() if (axes := _axes(given)) is not None}
        keys, command = tuple(map(str, found["keys"])), str(found["command"])
        "".join((*keys, command)).encode()  # raises a ValueError for what is not Unicode text
        return RecordedGrid(keys, command, **more)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise files.Damaged(
            f"{path} cannot be read ({error!r:.160}): run the suite again, or delete the file"
        ) from error


def _axes(given: Any) -> CellAxes | None:
    """Return what a record says of a cell; None if it is damaged."""
    if not isinstance(given, dict):
        return None
    method, precision, rank = (given.get(name) for name in ("method", "precision", "rank"))
    if isinstance(method, str) and isinstance(precision, str) and (rank is None or type(rank) is int):
        return CellAxes(method, precision, rank)
    return None
