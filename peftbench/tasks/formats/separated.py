"""CSV and TSV: records with their lines, by a dialect that is given or found out. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from peftbench.errors import UserError
from peftbench.records.wording import plural
from peftbench.tasks.formats import dialect
from peftbench.tasks.formats.dialect import Line
from peftbench.tasks.formats.records import Layout, Records


def read(path: Path, text: str, suffix: str, layout: Layout) -> Records:
    """Return the records of a CSV or TSV file; all fields are text, and an empty field is an empty text.

    Raises:
        UserError: if lines differ in their number of fields, a quote is left open, or two columns have one name.
    """
    with dialect.any_size(text):
        found, notes = dialect.find(text, suffix, layout)
        try:
            lines = list(dialect.parsed(text, found))
        except dialect.Broken as error:
            hint = "is a quote left open? `quoting: none` reads quotes as text" if found.quoted else "see `quoting`"
            raise UserError(f"{path}, line {error.line}: {error} ({hint})") from None
    if not lines:
        return Records(())
    names, lines, more = _header(lines, layout.columns)
    return _records(path, names, lines, layout.columns, [*notes, *more])


def _header(lines: list[Line], columns: Sequence[str]) -> tuple[list[str], list[Line], list[str]]:
    """Return the names of the columns, the lines with values, and a note if spaces around a name were left out."""
    if columns:
        return list(columns), lines, []
    given = lines[0].values
    names = [name.strip() for name in given]
    notes = ["spaces around the names of columns are left out"] if names != given else []
    return names, lines[1:], notes


def _records(path: Path, names: list[str], lines: list[Line], columns: Sequence[str], notes: list[str]) -> Records:
    """Return one record per line, without columns that have neither a name nor a value."""
    if lines and columns and lines[0].values == list(columns):
        raise UserError(f"{path} has a header line; leave 'columns' out, which is for files without one")
    unnamed = {index for index, name in enumerate(names) if not name}
    width, longer = len(names), 0
    for line in lines:
        values = line.values
        if len(values) > width and not any(value.strip() for value in values[width:]):
            del values[width:]
            longer += 1
        missing = set(range(len(values), width))
        if len(values) != width and not (missing and missing <= unnamed):
            raise UserError(f"{path}, line {line.number}: {len(values)} fields, expected {width}: {names}")
        values += [""] * len(missing)
    empty = {index for index in unnamed if not any(line.values[index].strip() for line in lines)}
    kept = [index for index in range(width) if index not in empty]
    if len({names[index] for index in kept}) < len(kept):
        raise UserError(f"{path}: two columns have the same name: {', '.join(names[index] for index in kept)}")
    if empty:
        notes = [*notes, f"{plural(len(empty), 'empty column')} without a name left out"]
    if longer:
        notes = [*notes, f"empty fields beyond the header's are left out in {plural(longer, 'line')}"]
    rows = [{names[index]: line.values[index] for index in kept} for line in lines]
    return Records(rows, [line.number for line in lines], tuple(notes))
