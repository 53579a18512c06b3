"""A laid-out table in LaTeX with booktabs, multirow and siunitx: at most eight columns, wider ones in pieces."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from peftbench.records import units as fmt
from peftbench.report.published import wording
from peftbench.report.published.arrange import LaidOut, Line, Printed
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
    "\n% and, before TeX Live 2018, \\usepackage[utf8]{inputenc}\n"
)
_SETTINGS = (
    r"\sisetup{separate-uncertainty=true,retain-zero-uncertainty=true,detect-weight=true,mode=text,"
    r"group-separator={,},group-minimum-digits=4}"
)
_STANDING = (
    "∈ and ∉: inside and outside of the measured 95 % interval; raised numbers are those of the notes with source and "
    "protocol."
)
_DAGGER = r"{\textsuperscript{$\dagger$}}"


@dataclass(frozen=True)
class _Piece:
    """Some columns and lines of a table."""

    columns: tuple[LayoutColumn, ...]
    lines: tuple[Line, ...]


def write(table: LaidOut) -> str:
    """Return one ``table`` environment for each piece, the first with the caption, each with its own notes."""
    pieces = list(_pieces(table))
    return HEAD + "\n".join(
        "\n".join(_piece(table, piece, place, len(pieces))) + "\n" for place, piece in enumerate(pieces)
    )


def _pieces(table: LaidOut) -> Iterator[_Piece]:
    width = 2 if table.with_published else 1
    room = max(1, (MOST_COLUMNS - len(table.layout.rows)) // width)
    for columns in _batched(table, room):
        shown = [line for line in table.lines if _has(line, columns)]
        pieces = math.ceil(_height(table, columns, shown) / ROOM)
        size = math.ceil(len(shown) / max(1, pieces))
        for start in range(0, len(shown), size):
            yield _Piece(columns, tuple(shown[start : start + size]))


def _height(table: LaidOut, columns: Sequence[LayoutColumn], lines: Sequence[Line]) -> float:
    """Return about how high lines are with their notes, in lines."""
    notes = {one.note for column in columns for line in lines if (one := line.printed.get(column.key))}
    return len(lines) + _NOTE_LINE * sum(map(len, notes)) / _NOTE_WIDTH


def _batched(table: LaidOut, room: int) -> Iterator[tuple[LayoutColumn, ...]]:
    for start in range(0, len(table.columns), room):
        yield table.columns[start : start + room]


def _has(line: Line, columns: Sequence[LayoutColumn]) -> bool:
    keys = {*line.measured, *line.statuses, *line.printed}
    return any(column.key in keys for column in columns)


def _piece(table: LaidOut, piece: _Piece, place: int, pieces: int) -> Iterator[str]:
    first = escaped(wording.caption(table, _STANDING))
    caption = first if not place else f"{escaped(table.layout.title)}, continued ({place + 1} of {pieces})."
    yield r"\begin{table}"
    yield rf"\caption{{{caption}}}\medskip"
    yield r"\centering\footnotesize\setlength{\tabcolsep}{4pt}"
    yield _SETTINGS
    formats = [spec for column in piece.columns for spec in _formats(table, piece, column)]
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
    return "".join("r" if name in ("rank", "parameters") else "l" for name in table.layout.rows)


def _formats(table: LaidOut, piece: _Piece, column: LayoutColumn) -> Iterator[str]:
    worse = any(one.mark == "worse" for line in piece.lines if (one := line.measured.get(column.key)))
    yield f"S[table-format={_number_format([*_measured(piece, column)], column)}{_DAGGER if worse else ''}]"
    if table.with_published:
        numbers = [(one.value, one.spread) for one in _printed(piece, column) if one.value is not None]
        after = max((_after(table, one) for one in _printed(piece, column)), key=len, default="")
        yield f"S[table-format={_number_format(numbers, column)}{after}]"


def _measured(piece: _Piece, column: LayoutColumn) -> Iterator[tuple[float, float | None]]:
    found = (line.measured.get(column.key) for line in piece.lines)
    yield from ((one.value, one.sd) for one in found if one)


def _printed(piece: _Piece, column: LayoutColumn) -> Iterator[Printed]:
    yield from (one for line in piece.lines if (one := line.printed.get(column.key)))


def _number_format(numbers: Sequence[tuple[float, float | None]], column: LayoutColumn) -> str:
    """Return what siunitx reserves: "2.1(1)" for tens with one decimal and a spread of one digit."""
    whole = max((len(f"{abs(value):.{column.digits}f}".partition(".")[0]) for value, _ in numbers), default=1)
    sign = "-" if any(value < 0 for value, _ in numbers) else ""
    spreads = [
        f"{spread:.{column.digits}f}".replace(".", "").lstrip("0") for _, spread in numbers if spread is not None
    ]
    digits = max((len(spread) or 1 for spread in spreads), default=0)
    decimals = f".{column.digits}" if column.digits else ".0"
    return f"{sign}{whole}{decimals}{f'({digits})' if digits else ''}"


def _heads(table: LaidOut, piece: _Piece) -> Iterator[str]:
    width = 2 if table.with_published else 1
    offset = len(table.layout.rows)
    groups = [(group, len(list(each))) for group, each in itertools.groupby(piece.columns, key=lambda one: one.group)]
    if any(group for group, _ in groups):
        spans, rules, start = [], [], offset + 1
        for group, n in groups:
            spans.append(rf"\multicolumn{{{width * n}}}{{c}}{{{escaped(group)}}}")
            rules.append(rf"\cmidrule(lr){{{start}-{start + width * n - 1}}}")
            start += width * n
        yield "& " * offset + " & ".join(spans) + r" \\"
        yield "".join(rules)
    titles = [escaped(wording.DIMENSIONS[name]) for name in table.layout.rows]
    for column in piece.columns:
        titles += [f"{{{escaped(wording.head(column))}}}", *([f"{{{wording.PUBLISHED}}}"] if width == 2 else [])]
    yield " & ".join(titles) + r" \\"


def _body(table: LaidOut, piece: _Piece) -> Iterator[str]:
    blocks = [(name, list(lines)) for name, lines in itertools.groupby(piece.lines, key=lambda line: line.block)]
    for number, (name, lines) in enumerate(blocks):
        if number:
            yield r"\midrule"
        for place, line in enumerate(lines):
            head = [escaped(text) for text in line.head]
            if name:
                head[0] = "" if place else rf"\multirow[t]{{{len(lines)}}}{{*}}{{{head[0]}}}"
            entries = [entry for column in piece.columns for entry in _entries(table, piece, line, column)]
            yield " & ".join([*head, *entries]) + r" \\"


def _entries(table: LaidOut, piece: _Piece, line: Line, column: LayoutColumn) -> Iterator[str]:
    one = line.measured.get(column.key)
    if one is None:
        yield f"{{{escaped(line.statuses.get(column.key) or fmt.MISSING)}}}"
    else:
        text = _number(one.value, one.sd, column)
        shape = _number_format([*_measured(piece, column)], column)
        yield {
            "best": rf"\bfseries {text}",
            "second": rf"{{\underline{{\tablenum[table-format={shape}]{{{text}}}}}}}",
            "worse": text + _DAGGER,
        }.get(one.mark, text)
    if table.with_published:
        printed = line.printed.get(column.key)
        if printed is None:
            yield f"{{{escaped(fmt.MISSING)}}}"
        elif printed.value is None:
            yield f"{{{escaped(printed.status)}{_after(table, printed)}}}"
        else:
            yield _number(printed.value, printed.spread, column) + _after(table, printed)


def _number(value: float, spread: float | None, column: LayoutColumn) -> str:
    text = f"{value:.{column.digits}f}"
    return text if spread is None else rf"{text} \pm {spread:.{column.digits}f}"


def _after(table: LaidOut, printed: Printed) -> str:
    """Return what follows a published number: whether it lies in the interval, and its note."""
    where = {True: r"$\in$", False: r"$\notin$", None: ""}[printed.inside]
    return rf"{{\,{where}\textsuperscript{{{table.number(printed)}}}}}"


def _notes(table: LaidOut, piece: _Piece, place: int) -> Iterator[str]:
    used = sorted({table.number(one) for column in piece.columns for one in _printed(piece, column)})
    texts = [rf"\textsuperscript{{{number}}}~{escaped(table.notes[number - 1])}." for number in used]
    about = [escaped(text) for text in wording.about(table)] if not place else []
    if texts or about:
        yield r"\par\medskip\begin{minipage}{\linewidth}\scriptsize\raggedright"
        yield " ".join(texts) + (r"\par " if texts and about else "") + " ".join(about)
        yield r"\end{minipage}"
