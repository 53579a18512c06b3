"""Parquet files of a results folder: whole or absent, never half; one writer at a time."""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from peftbench.errors import UserError
from peftbench.records import SCHEMA_VERSION
from peftbench.results.store.schema import KIND_KEY, KINDS, VERSION_KEY

PART = "part-"
"""Prefix of the name of a file with many trials; every other file holds one trial and is named by its key."""
GRID = "grid.json"
"""File beside the datasets that names the trials of the last run."""
SEARCH = "search"
"""Inside a grid's results folder: the results folder of its learning-rate search."""
_IDENTITY = ("key", "status", "finished_at")
"""Columns that tell rows apart; steps and examples have the first one only."""
ROW_GROUP = 50_000
"""Fewest rows of a row group, except for the last one. About as many rows are held in memory at once."""


class Damaged(UserError):
    """A file cannot be read, and no other program or permission would help; a newer peftbench might."""


def path_of(folder: Path, kind: str, name: str) -> Path:
    """Return the path of a file of one dataset."""
    return folder / kind / f"{name}.parquet"


def names(folder: Path, kind: str) -> list[str]:
    """Return the names (without suffix) of a dataset's files, sorted; none if the dataset does not exist.

    Raises:
        UserError: if there is a foreign file, which plain pandas could not skip either.
    """
    place = folder / kind
    if not place.is_dir():
        return []
    found = [entry for entry in os.scandir(place) if not entry.name.startswith((".", "_"))]
    for entry in found:
        if not entry.name.endswith(".parquet") or entry.is_dir():
            raise UserError(f"{entry.path} does not belong in a results folder: move it away")
    return sorted(entry.name.removesuffix(".parquet") for entry in found)


@contextmanager
def opened(path: Path) -> Iterator[pq.ParquetFile]:
    """Open a stored file and check that it is complete and was written by peftbench.

    Raises:
        UserError: if it is not, naming the file; ``Damaged`` if its content cannot be read.
        FileNotFoundError: if it has been removed, for example by a writer that compacts.
    """
    remedy = ""
    try:
        with open(path, "rb") as raw, pq.ParquetFile(raw) as file:  # pyarrow takes no path that is not Unicode
            _check(path, file.schema_arrow)
            remedy = ": move it and the files of its name beside it away, and run again"  # rows inside are damaged
            yield file
    except (FileNotFoundError, MemoryError):  # pyarrow's own error of memory is one too
        raise
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        if isinstance(error, OSError) and error.errno:  # the system refuses: nothing is known to be wrong with the file
            raise UserError(f"{path} cannot be read: {error.strerror}") from error
        reason = str(error).strip().splitlines()[0][:160]
        raise Damaged(f"{path} cannot be read ({reason}){remedy}") from error


def _check(path: Path, found: pa.Schema) -> None:
    metadata = found.metadata or {}
    kind, version = metadata.get(KIND_KEY, b"").decode(errors="replace"), metadata.get(VERSION_KEY, b"")
    if kind != path.parent.name or not re.fullmatch(rb"[0-9]{1,9}", version):
        raise UserError(f"{path} is not a peftbench file of {path.parent.name}: move it away")
    for name in _IDENTITY if kind == "trials" else _IDENTITY[:1]:
        if found.names.count(name) != 1 or found.field(name).type != pa.string():
            raise UserError(
                f"{path} is not a peftbench file of {kind}, as it does not have one text column {name!r}: move it away"
            )
    if int(version) > SCHEMA_VERSION:
        raise Damaged(
            f"{path} has schema version {int(version)}, this peftbench reads up to {SCHEMA_VERSION} (update peftbench)"
        )


def check_own(folder: Path) -> None:
    """Check that no file in a results folder is foreign.

    Raises:
        UserError: if one is, or if the system refuses to read one.
    """
    for kind in KINDS:
        for name in names(folder, kind):
            with suppress(Damaged):
                schema_of(path_of(folder, kind, name))


def row_groups(path: Path, columns: list[str] | None = None) -> Iterator[pa.Table]:
    """Yield a file's row groups one by one; one empty table if there is none."""
    with opened(path) as file:
        for number in range(file.num_row_groups):
            yield file.read_row_group(number, columns, use_threads=False)
        if not file.num_row_groups:
            yield file.read(columns, use_threads=False)


def load(path: Path, columns: list[str] | None = None) -> pa.Table:
    """Return a file's rows, with only these columns if any are given."""
    with opened(path) as file:
        return rows(file, columns)


def rows(file: pq.ParquetFile, columns: list[str] | None = None) -> pa.Table:
    """Return the rows of an open file, with only these columns if any are given."""
    return file.read(columns, use_threads=file.metadata.num_rows > ROW_GROUP)


def schema_of(path: Path) -> pa.Schema:
    """Return a file's schema."""
    with opened(path) as file:
        return file.schema_arrow


def save(path: Path, tables: Iterable[pa.Table], schema: pa.Schema) -> None:
    """Write tables of one schema as one file that appears whole or not at all, even in a power cut."""
    with replacing(path) as out, pq.ParquetWriter(out, schema, compression="zstd", write_statistics=False) as writer:
        waiting: list[pa.Table] = []
        rows = 0
        for table in tables:
            waiting.append(table)
            rows += table.num_rows
            if rows >= ROW_GROUP:
                writer.write_table(pa.concat_tables(waiting), ROW_GROUP)
                waiting, rows = [], 0
        if rows:
            writer.write_table(pa.concat_tables(waiting))


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file that replaces this path if the block ends without an exception.

    Its name begins with a dot, so that pyarrow and pandas skip it when they read a folder.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}-{path.name}.tmp")
    try:
        with open(temporary, "wb") as out:
            yield out
            out.flush()
            os.fsync(out.fileno())
        os.replace(temporary, path)
    except BaseException:  # Ctrl-C too
        temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


def sync(place: Path) -> None:
    """Flush a folder's entries to disk, so that renamed and deleted files stay so after a power cut."""
    descriptor = os.open(place, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a results folder, so that there is one writer; create the folder if it does not exist.

    Raises:
        UserError: if the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / ".lock", "ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
    except OSError as error:
        raise UserError(f"cannot write results to {folder}: {error.strerror or error}") from error


def sweep_temporaries(folder: Path) -> None:
    """Delete the temporary files of dead writers. The caller holds the lock, so no other writer is alive."""
    for kind in KINDS:
        for path in (folder / kind).glob(".*.tmp"):
            os.unlink(path)
    for path in folder.glob(f".*-{GRID}.tmp"):
        os.unlink(path)
