"""Read a results folder: the valid row of each trial, without what a crash left behind.

A trial may be stored more than once. Its own file, ``trials/KEY.parquet``, takes precedence over every part; among
parts, the row that finished last counts. Its steps and examples are the rows with its key **in the files of the same
name**: a trial in ``trials/NAME.parquet`` has them in ``steps/NAME.parquet`` and ``examples/NAME.parquet``. All other
rows are leftovers and are not read.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from peftbench.errors import UserError
from peftbench.records import FINAL
from peftbench.results.folder import existing
from peftbench.results.store import damage, files, older_rows
from peftbench.results.store.schema import conform, schema, tasks_of

if TYPE_CHECKING:
    import pandas as pd

T = TypeVar("T")
_ENTRY = ["key", "status", "finished_at"]
"""The columns of ``Entry``."""
ATTEMPTS = 10
"""How often a reader tries to read a folder that changes meanwhile, before it takes the writers' lock."""


@dataclass(frozen=True)
class Entry:
    """One stored row of a trial: where it is stored and how the trial ended."""

    name: str
    """Name of the file, without folder and suffix."""
    key: str
    status: str
    finished_at: str

    @property
    def loose(self) -> bool:
        """Whether the trial has a file of its own."""
        return not self.name.startswith(files.PART)

    @property
    def final(self) -> bool:
        """Whether the trial is not run again."""
        return self.status in FINAL


@dataclass(frozen=True)
class Tables:
    """A results folder's three datasets. Integers that can be null are pandas' ``Int64``, booleans ``boolean``."""

    trials: pd.DataFrame
    """One row per trial, sorted by start time."""
    steps: pd.DataFrame
    """One row per optimizer step; a trial's steps are together and in order."""
    examples: pd.DataFrame
    """One row per scored example; a trial's examples are together and in order."""


def entries(folder: Path, chosen: Iterable[str]) -> list[Entry]:
    """Return the rows in these files of ``trials``."""
    return _entries(folder, ((name, files.load(files.path_of(folder, "trials", name), _ENTRY)) for name in chosen))


def _entries(folder: Path, tables: Iterable[tuple[str, pa.Table]]) -> list[Entry]:
    """Return the rows in tables of ``trials``, each with the name of its file."""
    found = []
    for name, rows in tables:
        if rows["key"].null_count or rows["status"].null_count:
            path = files.path_of(folder, "trials", name)
            raise UserError(f"{path} has rows without a key or a status: move the file away")
        columns = (rows[column].to_pylist() for column in _ENTRY)
        found += [Entry(name, key, status, finished or "") for key, status, finished in zip(*columns, strict=True)]
    return found


def winners(found: Iterable[Entry]) -> dict[str, Entry]:
    """Return the valid row of each key."""
    ranked = sorted(found, key=lambda entry: (entry.loose, entry.finished_at, entry.name))
    return {entry.key: entry for entry in ranked}


def done(folder: Path | str) -> set[str]:
    """Return the keys of the trials that are not run again; none if the folder does not exist."""
    folder = Path(folder)

    def look() -> set[str]:
        best = winners(_entries(folder, damage.sound_rows(folder, "trials", _ENTRY)))
        return {key for key, entry in best.items() if entry.final}

    return _undisturbed(folder, look)


def read_trials(folder: Path | str) -> pd.DataFrame:
    """Return the trials only; see ``read``."""
    folder = existing(Path(folder))
    return _undisturbed(folder, lambda: _trials_frame(folder, _trials(folder)[0]))


def read_rows(folder: Path | str, names: Iterable[str]) -> list[dict[str, Any]]:
    """Return the trials with these columns and the scores' only, for whoever reads many folders.

    It takes a fraction of the time of ``read_trials``. A column that no file has is null. Rows of schema version 1 are
    completed as ``read_trials`` does.

    Raises:
        UserError: as ``read``.
    """
    folder = existing(Path(folder))

    def look() -> list[dict[str, Any]]:
        wanted = {"key", "status", "finished_at", "schema_version", *names}
        found: dict[str, tuple[tuple[bool, str, str], dict[str, Any]]] = {}
        for name in damage.sound(folder, "trials"):
            path = files.path_of(folder, "trials", name)
            with files.opened(path) as file:
                stored = [each for each in file.schema_arrow.names if each in wanted or each.startswith("score_")]
                table = file.read(stored, use_threads=False)
            listed = conform(table, _part_of_schema(table), str(path)).to_pylist()
            for row in listed:
                order = (not name.startswith(files.PART), row["finished_at"] or "", name)
                if row["key"] not in found or order >= found[row["key"]][0]:
                    found[row["key"]] = order, dict.fromkeys(wanted) | row
        if not found:
            raise UserError(f"{folder} holds no results")
        rows = [row for _, row in found.values()]
        if any(row["schema_version"] in (None, 1) for row in rows):
            frame = read_trials(folder)
            kept = [each for each in frame if each in wanted or str(each).startswith("score_")]
            whole = frame[kept].astype(object)
            return [
                {str(key): value for key, value in row.items()}
                for row in whole.where(whole.notna(), None).to_dict("records")
            ]
        return rows

    return _undisturbed(folder, look)


def _part_of_schema(table: pa.Table) -> pa.Schema:
    """Return the fields of the dataset that a table has; whatever begins as a score does is a number."""
    known = schema("trials")
    scores = [pa.field(name, pa.float64()) for name in table.column_names if name.startswith("score_")]
    return pa.schema([*(field for field in known if field.name in table.column_names), *scores])


def read(folder: Path | str) -> Tables:
    """Return the three datasets of a results folder, without what crashes left behind.

    Columns that were added after a row was stored are null, or filled by ``older_rows`` from its name and message.

    Raises:
        UserError: if the folder does not exist or holds no results, or the system refuses to read a file in it. What
            cannot be read for another reason is left out, with a warning.
    """
    folder = existing(Path(folder))

    def look() -> Tables:
        trials, best = _trials(folder)
        keys: dict[str, list[str]] = {}
        for entry in best.values():
            keys.setdefault(entry.name, []).append(entry.key)
        steps, examples = (_frame(_belonging(folder, kind, keys)) for kind in ("steps", "examples"))
        return Tables(_trials_frame(folder, trials), steps, examples)

    found = _undisturbed(folder, look)
    damage.tell_missing(folder, found.trials, {"steps": found.steps, "examples": found.examples})
    return found


def only(table: pa.Table, keys: Iterable[str]) -> pa.Table:
    """Return the rows of these trials."""
    return table.filter(pc.is_in(table["key"], value_set=pa.array(list(keys), pa.string())))


def _trials(folder: Path) -> tuple[pa.Table, dict[str, Entry]]:
    tables = dict(damage.sound_rows(folder, "trials"))
    best = winners(_entries(folder, tables.items()))
    if not best:
        raise UserError(f"{folder} holds no results")
    wanted = schema("trials", dict.fromkeys(task for table in tables.values() for task in tasks_of(table.schema)))
    kept = [
        only(
            conform(table, wanted, str(files.path_of(folder, "trials", name))),
            [key for key in table["key"].to_pylist() if best[key].name == name],
        )
        for name, table in tables.items()
    ]
    rows = pa.concat_tables(kept, promote_options="default")
    return rows.sort_by([("started_at", "ascending"), ("key", "ascending")]), best


def _belonging(folder: Path, kind: str, keys: dict[str, list[str]]) -> pa.Table:
    wanted = schema(kind)
    kept = [wanted.empty_table()]
    for name, table in damage.sound_rows(folder, kind):
        if name in keys:
            path = files.path_of(folder, kind, name)
            kept.append(only(conform(table, wanted, str(path)), keys[name]))
    return pa.concat_tables(kept, promote_options="default")


def _trials_frame(folder: Path, table: pa.Table) -> pd.DataFrame:
    frame = _frame(table)
    for column in table.schema:
        if column.name.endswith("_json"):
            frame[column.name] = _objects(frame[column.name], None if column.nullable else "{}")
    return older_rows.complete(frame, searched=folder.resolve().name == files.SEARCH)


def _objects(texts: pd.Series, empty: str | None) -> pd.Series:
    """Return a column of JSON objects; what is no such object in a damaged row is null, or an empty one."""
    bad = {text for text in texts.unique() if isinstance(text, str) and not _is_object(text)}
    return texts.where(~texts.isin(bad), empty) if bad else texts


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def _frame(table: pa.Table) -> pd.DataFrame:
    import pandas as pd

    nullable = {pa.int64(): pd.Int64Dtype(), pa.bool_(): pd.BooleanDtype()}
    plain = {pa.int64(): "int64", pa.bool_(): "bool"}
    frame = table.to_pandas(types_mapper=nullable.get)
    return frame.astype({f.name: plain[f.type] for f in table.schema if not f.nullable and f.type in plain})


def _undisturbed(folder: Path, look: Callable[[], T]) -> T:
    """Call ``look`` again if a writer changed files meanwhile, in the end with the writers' lock held.

    So readers need no write permission and, except in rare cases, wait for no lock.
    """
    for attempt in range(ATTEMPTS):
        try:
            before, found, after = _listing(folder), look(), _listing(folder)
        except FileNotFoundError:
            continue
        if before == after:
            return found
        time.sleep(0.01 * attempt)
    with files.locked(folder):
        return look()


def _listing(folder: Path) -> set[tuple[str, int, int]]:
    place = folder / "trials"
    if not place.is_dir():
        return set()
    stats = ((path, _stat(path)) for path in place.glob("*.parquet"))
    return {(path.name, stat.st_ino, stat.st_mtime_ns) for path, stat in stats}


def _stat(path: Path) -> os.stat_result:
    try:
        return os.stat(path)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): move it away") from None
