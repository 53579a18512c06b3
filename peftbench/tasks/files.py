"""Read records from data files: CSV, TSV, JSON, JSONL, Parquet and text. No torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from peftbench.errors import UserError, nearest, unknown
from peftbench.records import Task


def rows(task: Task, path: Path) -> list[dict[str, Any]]:
    """Return the records of a data file; all fields of CSV and TSV files are text.

    Raises:
        UserError: if the file is missing (naming the nearest one), empty or unreadable, or does not hold records.
    """
    if not path.is_file():
        siblings = [p.name for p in path.parent.iterdir() if p.is_file()] if path.parent.is_dir() else []
        near = nearest(path.name, siblings)
        hint = f"; did you mean {near!r}?" if near else ""
        raise UserError(f"task {task.name!r}: no such file: {path}{hint}")
    try:
        found = _parse(path, task)
    except UserError as error:
        raise UserError(f"task {task.name!r}: {error}") from None
    except Exception as error:  # any error of the six parsers
        raise UserError(f"task {task.name!r}: {path} cannot be read as {path.suffix[1:]}: {error}") from None
    if not found:
        raise UserError(f"task {task.name!r}: {path} holds no examples")
    for number, row in enumerate(found, 1):
        if not isinstance(row, dict):
            kind = type(row).__name__
            raise UserError(f"task {task.name!r}: {path}, example {number}: expected an object with fields, got {kind}")
    return found


def _parse(path: Path, task: Task) -> list[dict[str, Any]]:
    if path.suffix == ".jsonl":
        return _parse_lines(path)
    if path.suffix == ".json":
        data = json.loads(path.read_text(encoding="utf-8-sig"))
        if not isinstance(data, list):
            raise UserError(f"{path}: expected a JSON list of objects, got {type(data).__name__}")
        return data
    if path.suffix == ".parquet":
        import pandas

        return pandas.read_parquet(path).to_dict("records")  # type: ignore[return-value]
    if path.suffix in (".csv", ".tsv"):
        return _parse_separated(path, task.columns)
    if path.suffix == ".txt":
        return _parse_text(path, whole=task.kind == "language_modelling")
    raise UserError(
        f"{path}: " + unknown("file type", path.suffix, [".csv", ".tsv", ".json", ".jsonl", ".parquet", ".txt"])
    )


def _parse_text(path: Path, whole: bool) -> list[dict[str, Any]]:
    """Return a text file as a single record, or as one per non-blank line, with the field ``text``."""
    text = path.read_text(encoding="utf-8-sig")
    return [{"text": part} for part in ([text] if whole else text.split("\n")) if part.strip()]


def _parse_lines(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    # not splitlines, which also splits at U+2028 and other characters that JSON strings may contain
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), 1):
        try:
            rows += [json.loads(line)] if line.strip() else []
        except json.JSONDecodeError as error:
            raise UserError(f"{path}, line {number}: not JSON: {error.msg} (column {error.colno})") from None
    return rows


def _parse_separated(path: Path, columns: tuple[str, ...]) -> list[dict[str, Any]]:
    import csv

    # TSV corpora contain unpaired quotes, which would join lines if quotes were interpreted
    quoting: Any = csv.QUOTE_NONE if path.suffix == ".tsv" else csv.QUOTE_MINIMAL
    with path.open(newline="", encoding="utf-8-sig") as file:
        lines = csv.reader(file, delimiter="\t" if path.suffix == ".tsv" else ",", quoting=quoting, strict=True)
        try:
            return _records(path, lines, columns)
        except csv.Error as error:
            raise UserError(f"{path}, line {lines.line_num}: {error} (is a quote left open?)") from None


def _records(path: Path, lines: Any, columns: tuple[str, ...]) -> list[dict[str, Any]]:
    """Return one record per line of a csv reader; without given columns, the first line names the fields."""
    header = list(columns) or next(lines, [])
    if len(set(header)) < len(header):
        raise UserError(f"{path}: two columns have the same name: {', '.join(header)}")
    rows: list[dict[str, Any]] = []
    for values in lines:
        if not values:
            continue
        if len(values) != len(header):
            raise UserError(f"{path}, line {lines.line_num}: {len(values)} fields, expected {len(header)}: {header}")
        if not rows and values == list(columns):
            raise UserError(f"{path} has a header line; leave 'columns' out, which is for files without one")
        rows.append(dict(zip(header, values, strict=True)))
    return rows
