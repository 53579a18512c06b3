"""Published tables, layouts and names from their YAML files, checked as they are read. No torch, no pandas."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

from peftbench.errors import UserError, unknown
from peftbench.report.published.records import Layout, LayoutColumn, Names, PublishedRow, PublishedTable

Record = TypeVar("Record")
TOLERANCE = 0.05
"""Largest difference between a printed average and the recomputed one that rounding explains."""
_ROUNDING = 1e-6


@dataclass(frozen=True)
class Mismatch:
    """A printed average that does not follow from the printed cells."""

    table: str
    row: PublishedRow
    printed: float
    recomputed: float

    @property
    def words(self) -> str:
        """Return "llama-7b lora rank 16: average printed as 70.9, cells give 71.00"."""
        rank = f" rank {self.row.settings['rank']}" if "rank" in self.row.settings else ""
        whose = " ".join(filter(None, (self.row.base, self.row.label or self.row.method)))
        return f"{whose}{rank}: average printed as {self.printed:g}, cells give {self.recomputed:.2f}"


def _folder(name: str) -> Path:
    return Path(str(files("peftbench.report.published"))) / name


@cache
def tables() -> Mapping[str, PublishedTable]:
    """Return the published tables by id.

    Raises:
        UserError: if a file is not one; the message names it and the key.
    """
    found = [table_from(path) for path in sorted(_folder("tables").glob("*.yaml"))]
    return {table.id: table for table in found}


@cache
def names() -> Names:
    """Return the names of base models and methods.

    Raises:
        UserError: if the file is not right; the message names the key.
    """
    return _read(_folder("names.yaml"), Names)


@cache
def layouts() -> Mapping[str, Layout]:
    """Return the layouts by name.

    Raises:
        UserError: if a file is not one; the message names it and the key.
    """
    found = [layout_from(path) for path in sorted(_folder("layouts").glob("*.yaml"))]
    return {layout.name: layout for layout in found}


def layout(name: str) -> Layout:
    """Return a layout by its name, or the one that a YAML file has.

    Raises:
        UserError: if there is none of this name; the message has the nearest.
    """
    if name.endswith((".yaml", ".yml")):
        return layout_from(Path(name))
    known = layouts()
    if name not in known:
        raise UserError(f"--table: {unknown('table', name, known)}, or a YAML file like those")
    return known[name]


def table_from(path: Path) -> PublishedTable:
    """Return the published table of a file.

    Raises:
        UserError: if the file cannot be read, has other keys, or names a column or a method that does not exist.
    """
    found = _read(path, PublishedTable)
    for row in found.rows:
        for name in {*row.values, *row.spread} - {*found.columns}:
            raise UserError(f"{path}: rows: {unknown('column', name, found.columns)}")
        if row.method not in names().methods:
            raise UserError(f"{path}: rows: {unknown('method', row.method, names().methods)}")
        if row.base is not None and row.base.lower() not in names().bases:
            raise UserError(f"{path}: rows: {unknown('base model', row.base, names().bases)}")
    if found.average:
        for name in {found.average.column, *found.average.over} - {*found.columns}:
            raise UserError(f"{path}: average: {unknown('column', name, found.columns)}")
    _check_protocol(path, found)
    return found


def _check_protocol(path: Path, found: PublishedTable) -> None:
    from peftbench.report.published.parts import PARTS

    fields = ("base", "method", "group", "about", "label", "rank", "column")
    for block in found.protocol:
        for name in set(block.of) - {*fields}:
            raise UserError(f"{path}: protocol: {unknown('field of a row', name, fields)}")
        for part in set(block.settings) - {*PARTS}:
            raise UserError(f"{path}: protocol: {unknown('part', part, PARTS)}")
    for row in found.rows:
        for part in set(row.settings) - {*PARTS, "seed", "gpus"}:
            raise UserError(f"{path}: rows: {unknown('setting', part, PARTS)}")


def layout_from(path: Path) -> Layout:
    """Return the layout of a file.

    Raises:
        UserError: if the file cannot be read, has other keys, or names a table, column or part that does not exist.
    """
    from peftbench.report.published.parts import PARTS

    found = _read(path, Layout)
    keys = [column.key for column in found.columns]
    _check_names(path, found, keys)
    for key in {key for column in found.columns for key in column.mean_of} - {*keys}:
        raise UserError(f"{path}: mean_of: {unknown('column', key, keys)}")
    for column in found.columns:
        given = [bool(column.task or found.row_tasks), bool(column.quantity), bool(column.mean_of)]
        if sum(given) != 1:
            raise UserError(f"{path}: columns: {column.key}: give one of task, quantity and mean_of")
        if given[0] and not column.metrics:
            raise UserError(f"{path}: columns: {column.key}: metrics is missing")
        for part in {*(column.needs or ()), *found.needs} - {*PARTS}:
            raise UserError(f"{path}: needs: {unknown('part', part, PARTS)}")
        _check_costs(path, found, column)
    for source in found.published:
        if source.table not in tables():
            raise UserError(f"{path}: published: {unknown('table', source.table, tables())}")
        for key in {*source.columns, *source.scale} - {*keys}:
            raise UserError(f"{path}: published: {source.table}: {unknown('column', key, keys)}")
        printed = tables()[source.table].columns
        for name in set(source.columns.values()) - {*printed}:
            raise UserError(f"{path}: published: {source.table}: {unknown('printed column', name, printed)}")
    return found


def _check_names(path: Path, found: Layout, keys: list[str]) -> None:
    for key in keys:
        if keys.count(key) > 1:
            raise UserError(f"{path}: columns: {key} is given twice; each column has a key of its own")
    if "method" not in found.rows or len({*found.rows}) < len(found.rows):
        raise UserError(f"{path}: rows: given {', '.join(found.rows) or 'none'}; allowed: method and others, each once")


def _check_costs(path: Path, found: Layout, column: LayoutColumn) -> None:
    from peftbench.report.published.parts import DECIDE_COSTS

    needs = found.needs if column.needs is None else column.needs
    for begins, parts in DECIDE_COSTS.items() if found.published else ():
        of_it = any(name.startswith(begins) for group in column.quantity for name in group)
        for part in sorted(parts - {*needs}) if of_it else ():
            raise UserError(f"{path}: columns: {column.key}: needs has no {part}, which decides {begins.strip('_')}")


@cache
def decimals(table: str, column: str) -> Mapping[tuple[str, str, float], int]:
    """Return the decimals with which each number of a column was printed, by ``text_of`` its row and the number.

    A file's numbers lose zeros at their end: most numbers that one text prints in a column tell how many decimals it
    has, and a number with more was printed with more. Of another text's numbers they tell nothing.
    """
    printed: dict[tuple[str, str], list[PublishedRow]] = {}
    for row in tables()[table].rows:
        if column in row.values:
            printed.setdefault(text_of(row), []).append(row)
    found: dict[tuple[str, str, float], int] = {}
    for text, rows in printed.items():
        own = [_decimals(row.values[column]) for row in rows]
        spreads = [_decimals(row.spread[column]) for row in rows if column in row.spread]
        usual = statistics.mode(sorted([*own, *spreads], reverse=True))
        found |= {(*text, row.values[column]): max(usual, digits) for row, digits in zip(rows, own, strict=True)}
    return found


def text_of(row: PublishedRow) -> tuple[str, str]:
    """Return what tells the texts of a table apart whose numbers were collected: its part, and where it is quoted."""
    return row.group or "", row.about if row.hand else ""


def _decimals(value: float) -> int:
    return max(0, -int(Decimal(repr(float(value))).normalize().as_tuple().exponent))


def mismatches(table: PublishedTable) -> tuple[Mismatch, ...]:
    """Return the rows whose printed average differs from the mean of their printed cells by more than rounding."""
    if table.average is None:
        return ()
    found = []
    for row in table.rows:
        cells = [row.values.get(column) for column in table.average.over]
        printed = row.values.get(table.average.column)
        known = [value for value in cells if value is not None]
        if printed is None or len(known) < len(cells):
            continue
        mean = math.fsum(known) / len(known)
        if abs(mean - printed) > TOLERANCE + _ROUNDING:
            found.append(Mismatch(table.id, row, printed, mean))
    return tuple(found)


def _read(path: Path, record: type[Record]) -> Record:
    import yaml
    from pydantic import TypeAdapter, ValidationError

    try:
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the same as safe_load, ten times as fast
        content: Any = yaml.load(path.read_text(encoding="utf-8"), Loader=loader)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    try:
        return TypeAdapter(record).validate_python(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the whole file"
        raise UserError(f"{path}: {place}: {first['msg']}; given: {first['input']!r:.80}") from error
