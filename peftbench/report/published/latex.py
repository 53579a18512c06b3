"""A laid-out table in LaTeX with booktabs, multirow and siunitx: at most eight columns, wider ones in pieces."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from peftbench.records import units as fmt
from peftbench.report.published import wording
from peftbench.report.published.arrange import LaidOut, Printed, TableRow
from peftbench.report.published.measured import Measured
from peftbench.report.published.records import LayoutColumn
from peftbench.report.tables.latex import escaped

MOST_COLUMNS = 8
ROOM = 46.0
"""Lines of a piece and of its notes, so that it fits a page of an article with its caption."""
_NOTE_WIDTH = 150
"""Characters of a line of notes, which is of smaller type."""
_NOTE_LINE = 0.85
"""Height of such a line, in lines of the table."""
HEAD = (
    r"% needs \usepackage{booktabs,multirow,siunitx} (siunitx 3), \usepackage[T1]{fontenc}"
    "\n% and, before TeX Live 2018, \\usepackage[utf8]{inputenc}"
    "\n% for a text width of 17 cm, as \\usepackage[a4paper,margin=2cm]{geometry} gives\n"
)
_SETTINGS = (
    r"\sisetup{separate-uncertainty=true,retain-zero-uncertainty=true,detect-weight=true,mode=text,"
    r"group-digits=integer,group-separator={,},group-minimum-digits=4}"
)
_LABEL = 24
"""Characters of a source for which all columns have room; more take the room of a column for each ``_WIDTH``."""
_WIDTH = 12
_PLACES = {True: "∈", False: "∉"}
_BADGES = {"same protocol": "=", "differs": "≠", "unknown": "?"}
_WIDE = frozenset("∈∉=≠")
_DAGGER = r"{\textsuperscript{$\dagger$}}"


@dataclass(frozen=True)
class _Piece:
    """Some columns and lines of a table."""

    columns: tuple[LayoutColumn, ...]
    rows: tuple[TableRow, ...]


def write(table: LaidOut) -> str:
    """Return one ``table`` environment for each piece, the first with the caption, each with its own notes."""
    pieces = list(_pieces(table))
    return HEAD + "\n".join(
        "\n".join(_piece(table, piece, place, len(pieces))) + "\n" for place, piece in enumerate(pieces)
    )


def _pieces(table: LaidOut) -> Iterator[_Piece]:
    label = max((len(line.source) for line in table.lines), default=0)
    taken = table.with_published + max(0, math.ceil((label - _LABEL) / _WIDTH))
    room = max(1, MOST_COLUMNS - len(table.layout.rows) - taken)
    for columns in _batched(table, room):
        shown = [row for row in table.rows if _has(row, columns)]
        pieces = math.ceil(_height(table, shown, columns) / ROOM)
        size = math.ceil(len(shown) / max(1, pieces))
        for start in range(0, len(shown), size):
            yield _Piece(columns, tuple(shown[start : start + size]))


def _height(table: LaidOut, rows: Sequence[TableRow], columns: Sequence[LayoutColumn]) -> float:
    """Return about how high rows are with their notes, in lines."""
    notes = [table.notes[number - 1] for number in _numbers(table, rows)]
    return sum(_lines(row, columns) for row in rows) + _NOTE_LINE * sum(map(len, notes)) / _NOTE_WIDTH


def _lines(row: TableRow, columns: Sequence[LayoutColumn]) -> int:
    """Return how many lines a row has: two if intervals stand under its numbers."""
    return 2 if any(_interval(row, column) for column in columns) else 1


def _interval(row: TableRow, column: LayoutColumn) -> str:
    one = row.numbers.get(column.key)
    return wording.interval(one).strip() if isinstance(one, Measured) else ""


def _numbers(table: LaidOut, rows: Sequence[TableRow]) -> list[int]:
    """Return the numbers of the notes of rows, from the lowest."""
    return sorted({number for row in rows if row.is_published and (number := table.number(row.line))})


def _batched(table: LaidOut, room: int) -> Iterator[tuple[LayoutColumn, ...]]:
    for start in range(0, len(table.columns), room):
        yield table.columns[start : start + room]


def _has(row: TableRow, columns: Sequence[LayoutColumn]) -> bool:
    keys = {*row.numbers, *(() if row.is_published else row.line.statuses)}
    return any(column.key in keys for column in columns)


def _piece(table: LaidOut, piece: _Piece, place: int, pieces: int) -> Iterator[str]:
    first = escaped(" ".join((f"{table.layout.title}.", *wording.statistics(table))))
    caption = first if not place else f"{escaped(table.layout.title)}, continued ({place + 1} of {pieces})."
    yield r"\begin{table}"
    yield rf"\caption{{{caption}}}\medskip"
    yield r"\centering\footnotesize\setlength{\tabcolsep}{4pt}"
    yield _SETTINGS
    formats = [_format(piece, column) for column in piece.columns]
    yield rf"\begin{{tabular}}{{@{{}}{_head_format(table)}{''.join(formats)}@{{}}}}"
    yield r"\toprule"
    yield from _heads(table, piece)
    yield r"\midrule"
    yield from _body(table, piece)
    yield r"\bottomrule"
    yield r"\end{tabular}"
    yield from _notes(table, piece, place)
    yield r"\end{table}"


def _head_format(table: LaidOut) -> str:
    heads = "".join("r" if name in ("rank", "parameters") else "l" for name in table.layout.rows)
    return heads + "l" * table.with_published


def _format(piece: _Piece, column: LayoutColumn) -> str:
    numbers = [one for row in piece.rows if (one := row.numbers.get(column.key))]
    widest = max(numbers, key=lambda one: sum(2 if mark in _WIDE else 1 for mark in _marks(one)), default=None)
    return f"S[table-format={_number_format(piece, column)}{_after(widest) if widest else ''}]"


def _number_format(piece: _Piece, column: LayoutColumn) -> str:
    """Return what siunitx reserves: "2.1(1)" for tens with one decimal and a spread of one digit."""
    shown = [one for row in piece.rows if (one := row.numbers.get(column.key)) and one.value is not None]
    texts = [(_number(one).partition(r" \pm "), one.digits) for one in shown]
    whole = max((len(value.lstrip("-").partition(".")[0]) for (value, _, _), _ in texts), default=1)
    sign = "-" if any(value.startswith("-") for (value, _, _), _ in texts) else ""
    decimals = max((digits for _, digits in texts), default=column.digits)
    spreads = [
        len(spread.replace(".", "").lstrip("0") + "0" * (decimals - digits))
        for (_, _, spread), digits in texts
        if spread
    ]
    digits = max((size or 1 for size in spreads), default=0)
    return f"{sign}{whole}.{decimals}{f'({digits})' if digits else ''}"


def _heads(table: LaidOut, piece: _Piece) -> Iterator[str]:
    titles = [escaped(wording.DIMENSIONS[name]) for name in table.layout.rows]
    titles += [wording.SOURCE] * table.with_published
    offset = len(titles)
    groups = [(group, len(list(each))) for group, each in itertools.groupby(piece.columns, key=lambda one: one.group)]
    if any(group for group, _ in groups):
        spans, rules, start = [], [], offset + 1
        for group, n in groups:
            spans.append(rf"\multicolumn{{{n}}}{{c}}{{{escaped(group)}}}")
            rules.append(rf"\cmidrule(lr){{{start}-{start + n - 1}}}")
            start += n
        yield "& " * offset + " & ".join(spans) + r" \\"
        yield "".join(rules)
    titles += [f"{{{escaped(wording.head(column))}}}" for column in piece.columns]
    yield " & ".join(titles) + r" \\"


def _body(table: LaidOut, piece: _Piece) -> Iterator[str]:
    blocks = [(name, list(rows)) for name, rows in itertools.groupby(piece.rows, key=lambda row: row.line.block)]
    for number, (name, rows) in enumerate(blocks):
        if number:
            yield r"\midrule"
        for place, (shown, row) in enumerate(zip(wording.heads(rows), rows, strict=True)):
            head = [escaped(text) for text in shown]
            if name:
                lines = sum(_lines(row, piece.columns) for row in rows)
                head[0] = "" if place else rf"\multirow[t]{{{lines}}}{{*}}{{{head[0]}}}"
            source = _source(table, row)
            entries = [_entry(piece, row, column) for column in piece.columns]
            yield " & ".join([*head, *source, *entries]) + r" \\"
            if _lines(row, piece.columns) > 1:
                ends = [rf"{{\scriptsize {escaped(_interval(row, column))}}}" for column in piece.columns]
                yield " & ".join([""] * len((*head, *source)) + ends) + r" \\"


def _source(table: LaidOut, row: TableRow) -> tuple[str, ...]:
    if not row.is_published:
        return (wording.MEASURED,) * table.with_published
    number = table.number(row.line)
    return (escaped(row.line.source) + (rf"\textsuperscript{{{number}}}" if number else ""),)


def _entry(piece: _Piece, row: TableRow, column: LayoutColumn) -> str:
    one = row.numbers.get(column.key)
    if one is None:
        status = None if row.is_published else row.line.statuses.get(column.key)
        return f"{{{escaped(status or fmt.MISSING)}}}"
    if isinstance(one, Printed):
        number = f"{{{escaped(one.status)}}}" if one.value is None else _number(one)
        return number + _after(one)
    text = _number(one)
    marked = {
        "best": rf"\bfseries {text}",
        "second": rf"{{\underline{{\tablenum[table-format={_number_format(piece, column)}]{{{text}}}}}}}",
    }
    return marked.get(one.mark, text) + _after(one)


def _number(one: Measured | Printed) -> str:
    spread = one.sd if isinstance(one, Measured) else one.spread
    text = f"{one.value:.{one.digits}f}"
    return text if spread is None else rf"{text} \pm {spread:.{one.digits}f}"


def _marks(one: Measured | Printed) -> str:
    """Return what follows a number: a dagger; of a published one whether it lies in the interval, and its badge."""
    if isinstance(one, Measured):
        return wording.WORSE if one.mark == "worse" else ""
    where = "" if one.inside is None else _PLACES[one.inside]
    return where + (_BADGES[one.badge.kind] if one.badge else "")


def _after(one: Measured | Printed) -> str:
    marks = _marks(one)
    return _DAGGER if marks == wording.WORSE else rf"{{\,{escaped(marks)}}}" if marks else ""


def _notes(table: LaidOut, piece: _Piece, place: int) -> Iterator[str]:
    said = wording.notes(table)
    texts = [rf"\textsuperscript{{{number}}}~{escaped(said[number - 1])}" for number in _numbers(table, piece.rows)]
    first = (table.layout.note, *wording.legend(table, _PLACES, _BADGES), *wording.about(table))
    about = [escaped(text) for text in first if text] if not place else []
    if texts or about:
        yield r"\par\medskip\begin{minipage}{\linewidth}\scriptsize\raggedright"
        yield " ".join(texts) + (r"\par " if texts and about else "") + " ".join(about)
        yield r"\end{minipage}"
