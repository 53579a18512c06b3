"""Measured rows and published ones as the lines of one table."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from peftbench.errors import UserError
from peftbench.records.wording import series
from peftbench.report.derived.smoke import is_smoke
from peftbench.report.folders import Part
from peftbench.report.published import counted, measured
from peftbench.report.published.badges import Badge, badge, stated, words
from peftbench.report.published.cautions import cautions
from peftbench.report.published.facts import facts
from peftbench.report.published.heads import measured_head, precision_of, published_head
from peftbench.report.published.load import decimals, tables, text_of
from peftbench.report.published.matching import candidates, rank_of, shown_rows
from peftbench.report.published.measured import Measured, MeasuredRow
from peftbench.report.published.parts import concerns
from peftbench.report.published.records import Layout, LayoutColumn, PublishedRow, PublishedTable, Source

_SAME_RUNS = "Imported rows may be the very runs that were published: equal numbers confirm nothing then."
_ALPHAS = {"= r": 1, "= 2r": 2}
"""How publications write an alpha that follows the rank, and how many times the rank it is."""
_LONGEST_NAME = 42
"""Longest name of a published row in its label, characters; what is longer stands whole in its note."""


@dataclass(frozen=True)
class Printed:
    """One published number, in the unit of its column."""

    source: Source
    table: PublishedTable
    row: PublishedRow
    value: float | None
    """None if the run failed."""
    spread: float | None
    badge: Badge | None
    """How its protocol compares with the measured one beside it; None if there is none."""
    inside: bool | None
    """Whether the measured interval has a number that is printed like it; None if there is no interval."""
    digits: int
    """Its decimals as printed."""

    @cached_property
    def name(self) -> str:
        """What tells its row from others of the table that have the same head; empty if nothing needs to."""
        if self.row.about:
            return self.row.about
        alike = [row for row in self.table.rows if _without_numbers(row) == _without_numbers(self.row)]
        return self.row.label.rstrip("*") if len(alike) > 1 else ""

    @cached_property
    def label(self) -> str:
        """Where its row stands: "table 2", "README, LoRA(gaussian)", "July 2026"; shortened if that is long."""
        state = self.source.states.get(self.row.group or "")
        if state:
            return state
        return ", ".join(filter(None, (self.source.name, self._short_name)))

    @property
    def _short_name(self) -> str:
        short = self.name
        for end in (";", ","):
            short = short if len(short) <= _LONGEST_NAME else short.partition(end)[0]
        return textwrap.shorten(short, _LONGEST_NAME, placeholder=" …")

    @property
    def status(self) -> str:
        """How the published run ended, if not ok: "OOM"."""
        return "OOM" if self.row.status == "oom" else self.row.status.replace("_", " ")

    @property
    def about(self) -> tuple[str, ...]:
        """What else is known of its row: which it is, if its label is shortened, and through whose hands it went."""
        shortened = self.row.group not in self.source.states and self._short_name != self.name
        hand = {"secondary": "Read second-hand", "memory": "From memory, not read"}.get(
            "memory" if self.row.from_memory else self.row.hand or self.table.hand, ""
        )
        prior = "Copied by the source from prior work" if self.row.from_prior_work else ""
        return tuple(filter(None, (self.name if shortened else "", hand, prior)))


def _without_numbers(row: PublishedRow) -> tuple[Any, ...]:
    return row.base, row.method, row.group, row.parameters, tuple(row.settings.items())


@dataclass(frozen=True)
class Line:
    """One line: its head, and what was measured and published in each column."""

    head: tuple[str, ...]
    """A text for each of the layout's dimensions."""
    block: str
    """The task and the base model, which lines of one block share."""
    row: MeasuredRow | None
    """None if it is of published numbers alone."""
    below: MeasuredRow | None = None
    """The measured row that its published numbers are of, if that is in a line above; None if there is none."""
    measured: Mapping[str, Measured] = field(default_factory=dict)
    statuses: Mapping[str, str] = field(default_factory=dict)
    printed: Mapping[str, Printed] = field(default_factory=dict)

    @property
    def of(self) -> tuple[tuple[str, ...], int]:
        """What lines that show one head share: it, and the measured row that they are of."""
        return self.head, id(self.row or self.below)

    @property
    def source(self) -> str:
        """Where its published numbers stand, which are of one row; empty if it has none."""
        return next((one.label for one in self.printed.values()), "")


@dataclass(frozen=True)
class TableRow:
    """A row as it is written: the measured numbers of a line, or its published ones."""

    line: Line
    is_published: bool

    @property
    def numbers(self) -> Mapping[str, Measured | Printed]:
        """Its numbers by the keys of their columns."""
        return self.line.printed if self.is_published else self.line.measured


@dataclass(frozen=True)
class LaidOut:
    """A table ready to be written."""

    layout: Layout
    lines: tuple[Line, ...]
    columns: tuple[LayoutColumn, ...]
    """Those in which a line has something."""
    with_published: bool
    empty_folders: tuple[str, ...] = ()
    """Names of folders without anything that the layout shows."""
    cautions: tuple[str, ...] = ()
    """What limits the comparison of the measured rows."""

    @cached_property
    def rows(self) -> tuple[TableRow, ...]:
        """The rows to write: of each line the measured one first."""
        both = ((TableRow(line, False), TableRow(line, True)) for line in self.lines)
        return tuple(row for pair in both for row in pair if (row.line.printed if row.is_published else row.line.row))

    @cached_property
    def notes(self) -> tuple[str, ...]:
        """The notes of the published rows, each once, in the order of the lines."""
        return tuple(dict.fromkeys(filter(None, map(self._note, self.lines))))

    def _note(self, line: Line) -> str:
        """Return what is to know of a line's published numbers: how their protocol compares, and whose they are."""
        shown = {column: line.printed[column.key] for column in self.columns if column.key in line.printed}
        compared = words({column.head: one.badge for column, one in shown.items() if one.badge})
        about = next((one.about for one in shown.values()), ())
        return ". ".join(filter(None, (*about, compared)))

    @cached_property
    def sources(self) -> tuple[PublishedTable, ...]:
        """The published tables of the layout, if they are shown."""
        return tuple(tables()[one.table] for one in self.layout.published) if self.with_published else ()

    def number(self, line: Line) -> int | None:
        """Return the number of the note of a line's published numbers, from 1; None if there is nothing to know."""
        note = self._note(line)
        return self.notes.index(note) + 1 if note else None


def laid_out(parts: Sequence[Part], layout: Layout, with_published: bool) -> LaidOut:
    """Return the table of several results folders.

    Args:
        parts: results folders.
        layout: what the table has.
        with_published: whether published rows stand under the measured ones, and alone where nothing was measured.

    Raises:
        UserError: if no folder has anything that the layout shows.
    """
    found = measured.rows(parts, layout)
    used = {one.part.name for row in found for one in row.values.values()} | {row.part.name for row in found}
    if not found:
        raise UserError(_nothing(parts, layout))
    lines = list(_lines(found, layout, with_published))
    lines.sort(key=_order(layout))
    first: dict[tuple[tuple[str, ...], int], int] = {}  # rows with one head stand together, as of two states
    for place, line in enumerate(lines):
        first.setdefault(line.of, place)
    lines.sort(key=lambda line: first[line.of])
    keys = {key for line in lines for key in (*line.measured, *line.statuses, *line.printed)}
    columns = tuple(column for column in layout.columns if column.key in keys)
    empty = tuple(part.name for part in parts if part.name not in used)
    with_times = any("train_seconds" in group for column in columns for group in column.quantity)
    shown = [part for part in parts if part.name in used]
    tasks = {task for row in found for one in row.values.values() for task in (*one.tasks, one.shown.task) if task}
    imported = [_SAME_RUNS] if with_published and any(part.results.imported for part in shown) else []
    said = (*imported, *dict.fromkeys(counted.several(found, layout)), *cautions(shown, tasks, with_times))
    return LaidOut(layout, tuple(_distinct(lines, layout)), columns, with_published, empty, said)


def _nothing(parts: Sequence[Part], layout: Layout) -> str:
    matches = {column.head: column.task for column in layout.columns if column.task} | dict(layout.row_tasks)
    wanted = "; ".join(
        f"{title}: {', '.join(match.names[:2])} or data set {', '.join(match.datasets[:1]) or 'none'}"
        for title, match in matches.items()
    )
    if not wanted:
        costs = "; ".join(f"{column.head}: {column.stored}" for column in layout.columns if column.quantity)
        folders = series([str(part.folder) for part in parts])
        return f"--table {layout.name}: no cost of this table is stored in {folders}. Needed is one of: {costs}"
    have = "; ".join(f"{part.folder}: {', '.join(_tasks(part)) or 'no scored task'}" for part in parts)
    smoke = any(is_smoke(part.results) for part in parts)
    why = "; a smoke run has them in place of the suite's data: run it without --smoke" if smoke else ""
    why = f" Built-in data count for no table{why}." if any(map(counted.builtin, parts)) else ""
    return f"--table {layout.name}: no task of this table is in {have}.{why} Allowed: {wanted}"


def _tasks(part: Part) -> list[str]:
    return [f"{name} (built-in data)" if name in counted.builtin(part) else name for name in part.results.tasks]


def _lines(found: Sequence[MeasuredRow], layout: Layout, with_published: bool) -> Iterator[Line]:
    matched: set[int] = set()
    for row in found:
        of_it = list(candidates(row, found, layout)) if with_published else []
        matched |= {id(printed) for _, printed in of_it}
        head = measured_head(row, layout)
        block = head[0] if layout.rows[0] in ("task", "base") else ""
        first = of_it[0] if of_it else None
        beside = _printed(row, layout, *first) if first else {}
        yield Line(head, block, row, measured=row.values, statuses=row.statuses, printed=beside)
        for source, printed in of_it[1:]:
            more = _printed(row, layout, source, printed)
            if more:
                yield Line(head, block, None, below=row, printed=more)
    for source, printed in shown_rows(layout) if with_published else ():
        if id(printed) not in matched and (alone := _printed(None, layout, source, printed)):
            head = published_head(printed, layout, rank_of(source, printed, layout))
            yield Line(head, head[0] if layout.rows[0] in ("task", "base") else "", None, printed=alone)


def _printed(row: MeasuredRow | None, layout: Layout, source: Source, printed: PublishedRow) -> dict[str, Printed]:
    """Return the numbers of a published row by the key of the column."""
    table = tables()[source.table]
    found = {}
    for column in layout.columns:
        own = source.columns.get(column.key, column.key)
        scale = source.scale.get(column.key, 1.0)
        value = printed.values.get(own)
        if value is None and printed.status == "ok":
            continue
        spread = printed.spread.get(own)
        one = row.values.get(column.key) if row else None
        there = None if value is None else value * scale
        as_printed = decimals(table.id, own) if scale == 1.0 else {}
        digits = column.digits if value is None else as_printed.get((*text_of(printed), value), column.digits)
        found[column.key] = Printed(
            source,
            table,
            printed,
            there,
            None if spread is None else spread * scale,
            _badge(table, printed, own, column, layout, one),
            _inside(one, there, digits),
            digits,
        )
    return found


def _inside(one: Measured | None, printed: float | None, digits: int) -> bool | None:
    """Return whether an interval has a number that rounds to a printed one."""
    if one is None or printed is None or one.low is None or one.high is None:
        return None
    rounding = 0.5 * 10.0**-digits
    return one.low - rounding <= printed <= one.high + rounding


def _badge(
    table: PublishedTable, row: PublishedRow, own: str, column: LayoutColumn, layout: Layout, one: Measured | None
) -> Badge | None:
    if one is None or column.mean_of:
        return None
    said: dict[str, Any] = stated(table, row, own)
    if column.base and "base" not in said:
        said["base"] = column.base
    if column.rank and "rank" not in said:
        said["rank"] = column.rank
    if "precision" in said:
        said["precision"] = precision_of(str(said["precision"]))
    known = facts(one.shown)
    needs = layout.needs if column.needs is None else column.needs
    said = {part: value for part, value in said.items() if concerns(part, one.shown.task is not None, needs)}
    if said.get("alpha") in _ALPHAS and (rank := known.get("rank")) is not None:
        said["alpha"] = _ALPHAS[said["alpha"]] * rank
    return badge(said, known, needs)


def _order(layout: Layout) -> Callable[[Line], tuple[int, str, int]]:
    """Return the key by which lines are sorted: as published, what is not published after that."""
    heads = [published_head(row, layout) for _, row in shown_rows(layout)]
    blocks = list(dict.fromkeys(head[0] for head in heads)) if layout.rows[0] in ("task", "base") else [""]
    place = layout.rows.index("method")
    methods = list(dict.fromkeys(head[place] for head in heads))

    def key(line: Line) -> tuple[int, str, int]:
        block = blocks.index(line.block) if line.block in blocks else len(blocks)
        method = line.head[place]
        return block, line.block, methods.index(method) if method in methods else len(methods)

    return key


def _distinct(lines: Sequence[Line], layout: Layout) -> Iterator[Line]:
    """Yield lines whose measured rows have different heads: those that would be equal say what tells them apart."""
    place = layout.rows.index("method")
    alike: dict[tuple[str, ...], list[MeasuredRow]] = {}
    for line in lines:
        if line.row:
            alike.setdefault(line.head, []).append(line.row)
    for line in lines:
        same, row = alike.get(line.head, []), line.row or line.below
        apart = _apart_from(row, same) if row and len(same) > 1 else ""
        head = list(line.head)
        head[place] = f"{head[place]}, {apart}" if apart else head[place]
        yield replace(line, head=tuple(head))


def _apart_from(row: MeasuredRow, same: Sequence[MeasuredRow]) -> str:
    """Return what tells a row from others with the same head: its variant, else its cell, else its folder."""
    ways: tuple[Callable[[MeasuredRow], str], ...] = (
        lambda one: one.cell.variant,
        lambda one: one.cell.summary.cell,
        lambda one: one.part.name,
        lambda one: f"{one.cell.summary.cell} in {one.part.name}",
    )
    return next((way(row) for way in ways if len({way(one) for one in same}) == len(same)), row.part.name)
