"""Measured rows and published ones as the lines of one table."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from peftbench.errors import UserError
from peftbench.report.folders import Part
from peftbench.report.published import measured
from peftbench.report.published.badges import Badge, badge, stated
from peftbench.report.published.cautions import cautions
from peftbench.report.published.facts import facts
from peftbench.report.published.heads import measured_head, precision_of, published_head
from peftbench.report.published.load import tables
from peftbench.report.published.measured import Measured, MeasuredRow
from peftbench.report.published.parts import concerns, targets
from peftbench.report.published.records import Layout, LayoutColumn, PublishedRow, PublishedTable, Source

CLOSE = 1.25
"""Largest ratio of two counts of trainable parameters that are one size: publications round them and count heads."""
_ALPHA_IS_RANK = "= r"


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
    """Whether it lies in the measured interval; None if there is no interval."""

    @cached_property
    def name(self) -> str:
        """What tells its row from others of the table that have the same head; empty if nothing needs to."""
        if self.row.about:
            return self.row.about
        alike = [row for row in self.table.rows if _without_numbers(row) == _without_numbers(self.row)]
        return self.row.label.rstrip("*") if len(alike) > 1 else ""

    @property
    def status(self) -> str:
        """How the published run ended, if not ok: "OOM"."""
        return "OOM" if self.row.status == "oom" else self.row.status.replace("_", " ")

    @cached_property
    def note(self) -> str:
        """Everything about it but the number, as a sentence."""
        about = f" ({self.name})" if self.name else ""
        hand = {"secondary": "read second-hand", "memory": "from memory, not read"}.get(
            "memory" if self.row.from_memory else self.row.hand or self.table.hand, ""
        )
        prior = "copied by the source from prior work" if self.row.from_prior_work else ""
        said = [self.badge.words if self.badge else "", hand, prior]
        name = f"{self.source.name[0].upper()}{self.source.name[1:]}"
        return f"{name}{about}" + "".join(f"; {one}" for one in said if one)


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
    def notes(self) -> tuple[str, ...]:
        """The notes of the published numbers, each once, in the order of the lines."""
        each = (one.note for line in self.lines for key in self._keys if (one := line.printed.get(key)))
        return tuple(dict.fromkeys(each))

    @cached_property
    def sources(self) -> tuple[PublishedTable, ...]:
        """The published tables of the layout, if they are shown."""
        return tuple(tables()[one.table] for one in self.layout.published) if self.with_published else ()

    @property
    def _keys(self) -> tuple[str, ...]:
        return tuple(column.key for column in self.columns)

    def number(self, printed: Printed) -> int:
        """Return the number of a published number's note, from 1."""
        return self.notes.index(printed.note) + 1


def laid_out(parts: Sequence[Part], layout: Layout, with_published: bool) -> LaidOut:
    """Return the table of several results folders.

    Args:
        parts: results folders.
        layout: what the table has.
        with_published: whether published numbers stand beside the measured ones, and rows without measured ones.

    Raises:
        UserError: if no folder has anything that the layout shows.
    """
    found = measured.rows(parts, layout)
    used = {one.part.name for row in found for one in row.values.values()} | {row.part.name for row in found}
    if not found:
        raise UserError(_nothing(parts, layout))
    lines = list(_lines(found, layout, with_published))
    lines.sort(key=_order(layout))
    keys = {key for line in lines for key in (*line.measured, *line.statuses, *line.printed)}
    columns = tuple(column for column in layout.columns if column.key in keys)
    empty = tuple(part.name for part in parts if part.name not in used)
    with_times = any("train_seconds" in group for column in columns for group in column.quantity)
    said = cautions([part for part in parts if part.name in used], with_times)
    return LaidOut(layout, tuple(_distinct(lines, layout)), columns, with_published, empty, said)


def _nothing(parts: Sequence[Part], layout: Layout) -> str:
    matches = {column.head: column.task for column in layout.columns if column.task} | dict(layout.row_tasks)
    wanted = "; ".join(
        f"{title}: {', '.join(match.names[:2])} or data set {', '.join(match.datasets[:1]) or 'none'}"
        for title, match in matches.items()
    )
    have = "; ".join(f"{part.folder}: {', '.join(part.results.tasks) or 'no scored task'}" for part in parts)
    return f"--table {layout.name}: no task of this table is in {have}. Allowed: {wanted or 'stored costs of any task'}"


def _lines(found: Sequence[MeasuredRow], layout: Layout, with_published: bool) -> Iterator[Line]:
    matched: set[int] = set()
    for row in found:
        candidates = list(_candidates(row, layout)) if with_published else []
        matched |= {id(printed) for _, printed in candidates}
        head = measured_head(row, layout)
        block = head[0] if layout.rows[0] in ("task", "base") else ""
        first = candidates[0] if candidates else None
        beside = _printed(row, layout, *first) if first else {}
        yield Line(head, block, row, measured=row.values, statuses=row.statuses, printed=beside)
        for source, printed in candidates[1:]:
            more = _printed(row, layout, source, printed)
            if more:
                yield Line(head, block, None, below=row, printed=more)
    for source, printed in _shown_rows(layout) if with_published else ():
        if id(printed) not in matched and (alone := _printed(None, layout, source, printed)):
            head = published_head(printed, layout)
            yield Line(head, head[0] if layout.rows[0] in ("task", "base") else "", None, printed=alone)


def _shown_rows(layout: Layout) -> Iterator[tuple[Source, PublishedRow]]:
    for source in layout.published:
        for row in tables()[source.table].rows:
            if not source.groups or row.group in source.groups:
                yield source, row


def _candidates(row: MeasuredRow, layout: Layout) -> Iterator[tuple[Source, PublishedRow]]:
    """Yield the published rows that are of a measured row, the nearest in size of each source first."""
    found = [(source, printed) for source, printed in _shown_rows(layout) if _is_same(row, printed, layout)]
    for source in layout.published:
        mine = [printed for of, printed in found if of is source]
        yield from ((source, printed) for printed in sorted(mine, key=lambda printed: _apart(row, printed)))


def _is_same(row: MeasuredRow, printed: PublishedRow, layout: Layout) -> bool:
    """Whether a published row is of the method, base model, size, precision, targets and task of a measured one."""
    base = printed.base.lower() if printed.base else None
    settings = printed.settings
    if row.method != printed.method or (base and row.base and base != row.base):
        return False
    if base and row.base is None and not any(column.base for column in layout.columns):
        return False
    if layout.row_tasks and printed.group != row.task:
        return False
    if "precision" in layout.rows and "precision" in settings:
        given = str(settings["precision"])
        if precision_of(given) != row.cell.precision:
            return False
    if "targets" in layout.rows and "target_modules" in settings and targets(settings["target_modules"]) != row.targets:
        return False
    if "rank" in settings and not any(column.rank for column in layout.columns):
        return bool(settings["rank"] == row.cell.rank)
    return _apart(row, printed) <= math.log(CLOSE)


def _apart(row: MeasuredRow, printed: PublishedRow) -> float:
    """Return the logarithm of the ratio of trainable parameters; 0 if one of them is not known."""
    if not printed.parameters or not row.parameters:
        return 0.0
    return abs(math.log(row.parameters / printed.parameters))


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
        inside = None if one is None or one.low is None or there is None else one.low <= there <= float(one.high or 0.0)
        found[column.key] = Printed(
            source,
            table,
            printed,
            there,
            None if spread is None else spread * scale,
            _badge(table, printed, own, column, layout, one),
            inside,
        )
    return found


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
    if said.get("alpha") == _ALPHA_IS_RANK:
        said["alpha"] = known.get("rank")
    return badge(said, known, needs)


def _order(layout: Layout) -> Callable[[Line], tuple[int, str, int]]:
    """Return the key by which lines are sorted: as published, what is not published after that."""
    heads = [published_head(row, layout) for _, row in _shown_rows(layout)]
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
        same = alike.get(line.head, [])
        apart = _apart_from(line.row, same) if line.row and len(same) > 1 else ""
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
