"""Read records from data files: CSV, TSV, JSON, JSON lines, Parquet and text, also compressed. No torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from peftbench.errors import UserError, nearest, unknown
from peftbench.records import Task
from peftbench.tasks.formats import content, json_records, parquet, separated
from peftbench.tasks.formats.plain import plain
from peftbench.tasks.formats.records import Layout, Records

KINDS = (".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".parquet", ".txt")
"""Suffixes of data files, in lower or upper case; one of a compression may follow."""


def rows(task: Task, path: Path) -> list[dict[str, Any]]:
    """Return the records of a data file; see ``read``."""
    return list(read(task, path).rows)


def read(task: Task, path: Path) -> Records:
    """Return the records of a data file with their lines and notes; all fields of CSV and TSV files are text.

    Raises:
        UserError: if the file is missing (naming the nearest one), empty or unreadable, or does not hold records.
    """
    who = f"task {task.name!r}: "
    if not _is_file(path):
        raise UserError(f"{who}no such file: {path}{_near(path)}")
    kind = content.kind(path)
    try:
        found = _parse(path, kind, task)
    except UserError as error:
        raise UserError(f"{who}{error}") from None
    except Exception as error:  # any error of the parsers and of decompression
        why = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise UserError(f"{who}{path} cannot be read as {kind[1:]}: {why}") from None
    if not found.rows:
        raise UserError(f"{who}{path} holds no examples")
    for index, row in enumerate(found.rows):
        if not isinstance(row, dict):
            given = type(row).__name__
            raise UserError(f"{who}{path}, {found.place(index)}: expected an object with fields, got {given}")
    return plain(found)


def read_text(path: Path, encoding: str | None = None) -> tuple[str, tuple[str, ...]]:
    """Return the text of a file, decompressed and decoded, and notes.

    Raises:
        UserError: if it is no text in the encoding, with the line.
        Exception: any error of the file system or of decompression.
    """
    data, notes = content.content(path)
    text, more = content.decoded(path, data, encoding)
    return _with_line_feeds(text), (*notes, *more)


def _with_line_feeds(text: str) -> str:
    """Return plain text whose lines end in line feeds, whichever characters ended them."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that is too long, or has a NUL
        return False


def _near(path: Path) -> str:
    """Return the nearest name in the folder of a missing file, for a message."""
    try:
        siblings = [p.name for p in path.parent.iterdir() if p.is_file()]
    except (OSError, ValueError):
        return ""
    near = nearest(path.name, siblings)
    return f"; did you mean {near!r}?" if near else ""


def _parse(path: Path, kind: str, task: Task) -> Records:
    if kind not in KINDS:
        raise UserError(
            f"{path}: {unknown('file type', kind, KINDS)}; one of {', '.join(content.COMPRESSIONS)} may follow"
        )
    data, notes = content.content(path)
    if kind == ".parquet":
        found = parquet.read(path, data)
    else:
        text, more = content.decoded(path, data, task.encoding)
        notes = (*notes, *more)
        found = _parse_text(path, text, kind, task)
    return Records(found.rows, found.lines, (*notes, *found.notes))


def _parse_text(path: Path, text: str, kind: str, task: Task) -> Records:
    if kind in (".csv", ".tsv"):
        return separated.read(path, text, kind, Layout(task.delimiter, task.quoting, task.columns))
    if kind != ".txt":
        return json_records.read(path, text, lines=kind != ".json")
    text = _with_line_feeds(text)
    if task.kind == "language_modelling":
        return Records([{"text": text}] if text.strip() else [], [1] if text.strip() else [])
    parts = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    return Records([{"text": line} for _, line in parts], [number for number, _ in parts])
