"""Changing a results folder so that no finished trial is lost or counted twice at any instant.

Three rules make it so. A trial's row is written last, so its presence means that the trial is done. Parts never
change their rows: to merge or to shrink them, a new part is written under a new name, then the old ones' rows are
deleted, then what belonged to them. And rows are paired with steps and examples by file name (see ``reading``), so the
leftovers of a crash are recognised by their names and swept up by the next opening or compaction.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa

from peftbench.errors import UserError
from peftbench.records import Result
from peftbench.results.store import damage, files
from peftbench.results.store.reading import Entry, entries, only, winners
from peftbench.results.store.schema import KINDS, conform, schema, scores_of, table, tasks_of

PART_TRIALS = 2_000
"""Trials of a full part. Later compactions leave full parts alone and merge smaller ones again."""
LOOSE_TRIALS = 250
"""Number of trials with files of their own at which ``write`` compacts, so that a long run has few files too."""


def open_for_run(folder: Path | str, tasks: Iterable[str]) -> tuple[str, ...]:
    """Prepare a results folder for a run: set aside what cannot be read, delete leftovers, unify columns and compact.

    Args:
        folder: the results folder; created if it does not exist.
        tasks: names of the evaluated tasks, in the suite's order.

    Returns:
        Sentences about files that were set aside, and about steps and examples that are gone.

    Raises:
        UserError: if there is a foreign file or the system refuses to read one (then nothing is changed), or the folder
            cannot be written.
    """
    folder = Path(folder)
    with files.locked(folder):
        for kind in KINDS:
            (folder / kind).mkdir(exist_ok=True)
        files.check_own(folder)
        told = damage.set_aside(folder)
        files.sweep_temporaries(folder)
        _unify_columns(folder, tasks)
        _compact(folder)
    return tuple(told)


def write(folder: Path | str, result: Result, tasks: Iterable[str] = ()) -> None:
    """Store the result of a trial, in place of any earlier result of the same trial.

    Args:
        folder: the results folder; created if it does not exist.
        result: the result; the key of its row names the files.
        tasks: names of all evaluated tasks, so that the row of a failed trial has their columns too, as null.

    Raises:
        UserError: if the folder cannot be written.
    """
    folder, key = Path(folder), result.row.key
    if not re.fullmatch(r"[0-9A-Za-z][0-9A-Za-z.-]*", key) or key.startswith(files.PART):
        raise ValueError(f"a trial's key names a file, so it must be letters and digits, got {key!r}")
    with files.locked(folder):
        columns = _settled_columns(folder, [*tasks, *(score.task for score in result.scores)])
        _put_aside(folder, key)
        rows = {
            "examples": [vars(row) for row in result.examples],
            "steps": [vars(row) for row in result.steps],
            "trials": [vars(result.row) | scores_of(result.scores)],
        }
        for kind in KINDS:
            made = table(kind, rows[kind], columns)
            files.save(files.path_of(folder, kind, key), [made], made.schema)
        _drop_from_parts(folder, key)
        loose = sum(1 for name in files.names(folder, "trials") if not name.startswith(files.PART))
        if loose % LOOSE_TRIALS == 0:
            _compact(folder)


def write_new(folder: Path | str, results: Sequence[Result], tasks: Iterable[str]) -> None:
    """Store many results at once as a folder of its own, for results that were not run here.

    Args:
        folder: the results folder; created if it does not exist.
        results: at least one, of different keys.
        tasks: names of all tasks.

    Raises:
        UserError: if the folder has results already, or cannot be written.
    """
    folder, tasks = Path(folder), list(tasks)
    with files.locked(folder):
        check_new(folder)
        rows = {
            "examples": [vars(row) for result in results for row in result.examples],
            "steps": [vars(row) for result in results for row in result.steps],
            "trials": [vars(result.row) | scores_of(result.scores) for result in results],
        }
        part = files.PART + hashlib.sha256(repr([r.row.key for r in results]).encode()).hexdigest()[:16]
        for kind in KINDS:
            made = table(kind, rows[kind], tasks)
            files.save(files.path_of(folder, kind, part), [made], made.schema)


def check_new(folder: Path | str) -> None:
    """Check that a folder has no results.

    Raises:
        UserError: if it has.
    """
    folder = Path(folder)
    if (folder / "trials").is_dir() and files.names(folder, "trials"):
        raise UserError(f"{folder} has results already: choose another folder, or delete it")


def record_grid(folder: Path | str, keys: Iterable[str], command: str, **more: Any) -> None:
    """Record which trials reports and comparisons show. Rows of other trials stay stored and are not shown.

    Args:
        folder: the results folder; created if it does not exist.
        keys: keys of the suite's whole grid, in the suite's order.
        command: command that runs this grid.
        **more: the other fields of ``RecordedGrid``.

    Raises:
        UserError: if the folder cannot be written.
    """
    folder = Path(folder)
    record = {"keys": list(keys), "command": command} | {name: value for name, value in more.items() if value}
    text = json.dumps(record, indent=1, default=asdict) + "\n"
    with files.locked(folder), files.replacing(folder / files.GRID) as out:
        out.write(text.encode())


def compact(folder: Path | str) -> None:
    """Merge the files of final trials into few parts; trials that run again keep files of their own."""
    folder = Path(folder)
    with files.locked(folder):
        _compact(folder)


def _compact(folder: Path) -> None:
    found = entries(folder, files.names(folder, "trials"))
    best = winners(found)
    sizes: dict[str, int] = {}
    must: set[str] = set()
    for entry in found:
        sizes[entry.name] = sizes.get(entry.name, 0) + 1
        if best[entry.key] != entry or (entry.loose and entry.final):
            must.add(entry.name)
    small = {name for name, size in sizes.items() if name.startswith(files.PART) and size < PART_TRIALS}
    if must or len(small) > 1:
        _merge(folder, must | small, best)
    _sweep_orphans(folder)


def _merge(folder: Path, sources: Iterable[str], best: dict[str, Entry]) -> None:
    """Write the valid rows of these files as new parts, then delete the files."""
    chosen = set(sources)
    kept = sorted((e.name, e.key, e.finished_at) for e in best.values() if e.name in chosen)
    tasks = _stored_tasks(folder, chosen)
    made = set()
    for start in range(0, len(kept), PART_TRIALS):
        rows = kept[start : start + PART_TRIALS]
        keys: dict[str, list[str]] = {}
        for name, key, _ in rows:
            keys.setdefault(name, []).append(key)
        part = files.PART + hashlib.sha256(repr(rows).encode()).hexdigest()[:16]
        for kind in KINDS:
            wanted = schema(kind, tasks)
            files.save(files.path_of(folder, kind, part), _rows_of(folder, kind, keys, wanted), wanted)
        made.add(part)
    # Parts before loose files: a loose row takes precedence, so as long as an outdated row exists its successor does.
    # A merge that is repeated after a crash makes a part of the same name, which may then be among the sources.
    for name in sorted(chosen - made, key=lambda name: (not name.startswith(files.PART), name)):
        os.unlink(files.path_of(folder, "trials", name))
    files.sync(folder / "trials")  # else a power cut could restore a row whose examples are deleted
    _sweep_orphans(folder)


def _rows_of(folder: Path, kind: str, keys: dict[str, list[str]], wanted: pa.Schema) -> Iterator[pa.Table]:
    for name, chosen in keys.items():
        path = files.path_of(folder, kind, name)
        if path.exists():
            for group in files.row_groups(path):
                yield only(conform(group, wanted).select(wanted.names), chosen)


def _put_aside(folder: Path, key: str) -> None:
    """Remove a trial's own file before it is written anew; a final row moves to a part until the new one exists."""
    path = files.path_of(folder, "trials", key)
    if path.exists():
        old = entries(folder, [key])
        if all(entry.final for entry in old):
            _merge(folder, [key], winners(old))
        else:
            os.unlink(path)
            files.sync(path.parent)


def _drop_from_parts(folder: Path, key: str) -> None:
    parts = [name for name in files.names(folder, "trials") if name.startswith(files.PART)]
    found = entries(folder, [*parts, key])
    stale = {entry.name for entry in found if entry.key == key and not entry.loose}
    if stale:
        _merge(folder, stale, winners(found))


def _sweep_orphans(folder: Path) -> None:
    """Delete files of steps and examples without a file of trials of the same name."""
    trials = set(files.names(folder, "trials"))
    for kind in KINDS:
        for name in files.names(folder, kind):
            if name not in trials:
                os.unlink(files.path_of(folder, kind, name))


def _stored_tasks(folder: Path, chosen: Iterable[str]) -> list[str]:
    schemas = [files.schema_of(files.path_of(folder, "trials", name)) for name in sorted(chosen)]
    return list(dict.fromkeys(task for stored in schemas for task in tasks_of(stored)))


def _settled_columns(folder: Path, tasks: Sequence[str]) -> list[str]:
    """Add columns for these tasks to every file of ``trials``; return all tasks that the files have columns for."""
    stored = files.names(folder, "trials")
    present = _stored_tasks(folder, stored[:1])
    if stored and not set(tasks) <= set(present):
        _unify_columns(folder, tasks)
    return list(dict.fromkeys([*tasks, *present]))


def _unify_columns(folder: Path, tasks: Iterable[str]) -> None:
    """Give all files of a dataset the same columns in the same order and with the same types for pandas.

    Else plain pandas and DuckDB read only the columns of the first file, and Polars refuses the folder.
    """
    stored = _stored_tasks(folder, files.names(folder, "trials"))
    for kind in KINDS:
        wanted = schema(kind, dict.fromkeys([*tasks, *sorted(stored)]))
        for name in files.names(folder, kind):
            path = files.path_of(folder, kind, name)
            found = files.schema_of(path)
            if found.names[: len(wanted.names)] == wanted.names and found.metadata == wanted.metadata:
                continue
            target = conform(found.empty_table(), wanted).schema
            files.save(path, (conform(group, wanted) for group in files.row_groups(path)), target)
