"""How the fields of a CSV or TSV file are separated and quoted: given by the suite, or found out. No torch."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice

from peftbench.tasks.formats.records import Layout

QUOTINGS = ("minimal", "none")
_NAMES = {",": "comma", "\t": "tab", ";": "semicolon", "|": "bar"}
"""Delimiters that are tried, and their names."""
_SAMPLE = 200
"""Number of records from which the delimiter is found out."""
_SPACED = re.compile(r' +".*"', re.DOTALL)
"""A field in quotes that are not read as quotes, since a space stands before them."""
_BACKSLASH = re.compile(r'\\(["\\])?')
"""A backslash, with the quote or backslash for which it stands."""
_LARGEST = 2**31 - 1


@dataclass(frozen=True)
class Dialect:
    """How fields are separated and quoted."""

    delimiter: str
    quoted: bool
    spaced: bool = False
    """Whether spaces after a delimiter are left out."""
    escaped: bool = False
    r"""Whether a quote inside a quoted field is written ``\"`` and not ``""``, and a backslash ``\\`` or alone."""
    skipped: int = 0
    """Number of characters before the first record."""


@dataclass(frozen=True)
class Line:
    """One record of a file."""

    number: int
    """The line on which it begins, counted from 1."""
    values: list[str]


class Broken(Exception):
    """A text that a dialect cannot read, with the line."""

    def __init__(self, line: int, why: str) -> None:
        super().__init__(why)
        self.line = line


@contextmanager
def any_size(text: str) -> Iterator[None]:
    """Let a field be as long as the text; the csv module's limit, 128 KiB by default, is one for the process."""
    before = csv.field_size_limit(min(_LARGEST, max(len(text), 2**17) + 1))
    try:
        yield
    finally:
        csv.field_size_limit(before)


def parsed(text: str, dialect: Dialect) -> Iterator[Line]:
    """Yield the records of a text, without empty lines.

    Raises:
        Broken: if the text does not follow the dialect.
    """
    ahead = text.count("\n", 0, dialect.skipped)
    text = text[dialect.skipped :]
    if dialect.escaped:  # the csv module would drop every other backslash
        text = _BACKSLASH.sub(lambda found: found[0] if found[1] else "\\\\", text)
    lines = csv.reader(
        io.StringIO(text, newline=""),
        delimiter=dialect.delimiter,
        quoting=csv.QUOTE_MINIMAL if dialect.quoted else csv.QUOTE_NONE,
        skipinitialspace=dialect.spaced,
        doublequote=not dialect.escaped,
        escapechar="\\" if dialect.escaped else None,
        strict=True,
    )
    first = 1
    try:
        for values in lines:
            if values:
                yield Line(ahead + first, values)
            first = lines.line_num + 1
    except csv.Error as error:
        raise Broken(ahead + lines.line_num, str(error)) from None


def find(text: str, suffix: str, layout: Layout) -> tuple[Dialect, list[str]]:
    """Return the dialect of a file, and notes on what was found out.

    Args:
        text: the file's text.
        suffix: ``.csv`` or ``.tsv``, for the delimiter and the use of quotes that are expected first.
        layout: what the suite says.
    """
    dialect, notes = _delimited(text, suffix, layout)
    if layout.quoting == "none":
        return replace(dialect, quoted=False), notes
    quotes = re.search(rf'(?:^|{re.escape(dialect.delimiter)}) *"', text, re.MULTILINE)
    if not quotes and suffix == ".tsv" and layout.quoting is None:
        return replace(dialect, quoted=False), notes
    dialect = replace(dialect, quoted=True)
    if suffix == ".tsv" and layout.quoting is None:
        dialect, more = _quotes_of_tsv(text, dialect)
    else:
        dialect, more = _quotes_of_csv(text, dialect)
    return dialect, [*notes, *more]


def _delimited(text: str, suffix: str, layout: Layout) -> tuple[Dialect, list[str]]:
    """Return the dialect with the delimiter, and a note if it is another than the file's name says."""
    usual = Dialect("\t" if suffix == ".tsv" else ",", suffix != ".tsv")
    marked = re.match(r"sep=(.)\r?\n", text)
    if marked:  # written by Excel
        usual = replace(usual, delimiter=layout.delimiter or marked[1], skipped=marked.end())
        return usual, ["its first line names the delimiter"]
    if layout.delimiter is not None:
        return replace(usual, delimiter=layout.delimiter), []
    wanted = len(layout.columns)
    if wanted == 1 or _widths(text, usual)[:1] not in ([], [1]):
        return usual, []
    for other, name in _NAMES.items():
        for quoted in (True, False):
            found = set(_widths(text, Dialect(other, quoted)))
            if len(found) == 1 and (found == {wanted} if wanted else min(found) > 1):
                return replace(usual, delimiter=other), [f"delimiter: {name}"]
    return usual, []


def _widths(text: str, dialect: Dialect) -> list[int]:
    """Return the number of fields of the first records; empty if they cannot be read."""
    try:
        return [len(line.values) for line in islice(parsed(text, dialect), _SAMPLE)]
    except Broken:
        return []


def _all(text: str, dialect: Dialect) -> list[list[str]] | None:
    """Return the values of all records; None if they cannot be read, or differ in number."""
    try:
        found = [line.values for line in parsed(text, dialect)]
    except Broken:
        return None
    return found if len({len(values) for values in found}) == 1 else None


def _quotes_of_csv(text: str, dialect: Dialect) -> tuple[Dialect, list[str]]:
    """Return the dialect in which quotes enclose fields, after a space or with backslashes if the file is so."""
    found = _all(text, dialect)
    outside = found is None or found[0][1:] != [name.lstrip(" ") for name in found[0][1:]]
    if outside or any(_SPACED.fullmatch(value) for values in found or () for value in values):
        spaced = replace(dialect, spaced=True)
        if _all(text, spaced) is not None:
            return spaced, ["spaces after a delimiter are left out"]
    if found is None and '\\"' in text:
        escaped = replace(dialect, escaped=True)
        if _all(text, escaped) is not None:
            return escaped, ['quotes inside fields are written \\"']
    return dialect, []


def _quotes_of_tsv(text: str, dialect: Dialect) -> tuple[Dialect, list[str]]:
    """Return whether quotes enclose fields, as pandas writes them, or are text, as in many corpora; and a note.

    They enclose fields if the file is what a writer of such files makes of its records: only fields that need quotes
    have them, or all fields, or the whole header.
    """
    found = _all(text, dialect)
    if found is not None:
        first = next(iter(_lines(text)), "")
        header = all(part[:1] == part[-1:] == '"' and len(part) > 1 for part in first.split(dialect.delimiter))
        same = (_written(found, dialect, how) == _lines(text) for how in (csv.QUOTE_MINIMAL, csv.QUOTE_ALL))
        if header or any(same):
            return dialect, ["quotes enclose fields (`quoting: none` would read them as text)"]
    note = "quotes are read as text" + ("" if found is None else " (`quoting: minimal` would let them enclose fields)")
    return replace(dialect, quoted=False), [note]


def _written(found: Sequence[Sequence[str]], dialect: Dialect, quoting: int) -> list[str]:
    """Return the lines of a file that a writer makes of records."""
    out = io.StringIO(newline="")
    csv.writer(out, delimiter=dialect.delimiter, quoting=quoting, lineterminator="\n").writerows(found)  # type: ignore[arg-type]
    return _lines(out.getvalue())


def _lines(text: str) -> list[str]:
    """Return the lines of a text that are not empty, whichever characters end them."""
    return [line for line in re.split(r"\r\n|\r|\n", text) if line]
