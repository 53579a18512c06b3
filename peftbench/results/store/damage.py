"""Files of a results folder that cannot be read, and files that are gone: set aside, left out, and told."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from peftbench.errors import UserError
from peftbench.results.store import files
from peftbench.results.store.schema import KINDS

if TYPE_CHECKING:
    import pandas as pd

ASIDE = "set_aside"
"""Folder in a results folder for files that cannot be read, which no command reads."""
_log = logging.getLogger("peftbench")
_told: set[str] = set()
"""What this process has told already: a command reads a folder several times."""


def sound(folder: Path, kind: str) -> list[str]:
    """Return the names of a dataset's files that can be read; the others are told once.

    Raises:
        UserError: if there is a foreign file, or the system refuses to read one.
        FileNotFoundError: if one has been removed meanwhile.
    """
    found = []
    for name in files.names(folder, kind):
        try:
            files.schema_of(files.path_of(folder, kind, name))
        except files.Damaged as damaged:
            tell(f"{damaged}; it is left out")
        else:
            found.append(name)
    return found


def sound_rows(folder: Path, kind: str, columns: list[str] | None = None) -> Iterator[tuple[str, pa.Table]]:
    """Yield name and rows of each file that ``sound`` returns; each is opened once.

    Args:
        folder: the results folder.
        kind: one of its datasets.
        columns: those to read; None for all.

    Raises:
        UserError: as ``sound``; or if the rows of a file are damaged.
        FileNotFoundError: if one has been removed meanwhile.
    """
    for name in files.names(folder, kind):
        with ExitStack() as held:
            try:
                file = held.enter_context(files.opened(files.path_of(folder, kind, name)))
            except files.Damaged as damaged:
                tell(f"{damaged}; it is left out")
                continue
            table = files.rows(file, columns)
        yield name, table


def tell_missing(folder: Path, trials: pd.DataFrame, belonging: Mapping[str, pd.DataFrame]) -> None:
    """Tell how many trials that trained here and ended ok have no steps or no examples, though others have.

    Args:
        folder: the results folder.
        trials: its trials.
        belonging: its steps and its examples, by kind.
    """
    here = (trials["status"] == "ok") & trials["load_seconds"].notna() & trials["steps_done"].notna()
    trained = set(trials.loc[here, "key"])
    for kind, rows in belonging.items():
        lost = trained - set(rows["key"]) if len(rows) else set()
        if lost:
            tell(f"{folder}: {_gone(kind, len(lost))}")


def tell(text: str) -> None:
    """Print a warning on standard error, once."""
    if text not in _told:
        _told.add(text)
        _log.warning("peftbench: warning: %s", text)


def set_aside(folder: Path) -> list[str]:
    """Move the files that cannot be read into a folder of their own; return a sentence for each, and what is missing.

    A file of trials takes its steps and examples with it, and its trials run again. If steps or examples cannot be
    read, the trials stay: their scores are in their rows. The caller holds the folder's lock.

    Raises:
        UserError: if there is a foreign file, or the system refuses to read one.
    """
    told = []
    for kind in KINDS:
        for name in files.names(folder, kind):
            try:
                files.schema_of(files.path_of(folder, kind, name))
            except files.Damaged as damaged:
                for each in KINDS if kind == "trials" else (kind,):
                    _move(folder, Path(each) / f"{name}.parquet")
                again = "its trials run again" if kind == "trials" else f"its trials stay, without {kind}"
                told.append(f"{damaged}: moved to {folder / ASIDE}; {again}")
    return [*told, *missing(folder, files.names(folder, "trials"), KINDS)]


def missing(folder: Path, names: Iterable[str], kinds: Iterable[str]) -> list[str]:
    """Return a sentence about each kind of rows of which files are gone that trials were stored with.

    Args:
        folder: the results folder.
        names: files of its trials.
        kinds: the datasets to look at.
    """
    names, told = list(names), []
    for kind in kinds:
        gone = set(names) - set(files.names(folder, kind))
        count = sum(files.load(files.path_of(folder, "trials", name), ["key"]).num_rows for name in gone)
        told += [_gone(kind, count)] if count else []
    return told


def _gone(kind: str, count: int) -> str:
    trials = f"{count} stored trial{'s' if count > 1 else ''}"
    return f"the {kind} of {trials} are gone, and what is made from {kind} lacks them; `run --fresh` runs trials again"


def set_grid_aside(folder: Path, damaged: UserError) -> str:
    """Move the record of the grid, which cannot be read, aside; return a sentence about it."""
    with files.locked(folder):
        _move(folder, Path(files.GRID))
    return f"{damaged}: moved to {folder / ASIDE}, and written anew"


def _move(folder: Path, name: Path) -> None:
    """Move a file aside, if it exists, under a name that is free."""
    place = folder / ASIDE
    place.mkdir(exist_ok=True)
    target, number = place / "-".join(name.parts), 1
    while target.exists():
        number += 1
        target = place / f"{'-'.join(name.parts)}.{number}"
    if (folder / name).exists():
        os.replace(folder / name, target)
        files.sync(place)
