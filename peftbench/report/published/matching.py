"""Which published rows are of a measured one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from peftbench.report.published.badges import stated
from peftbench.report.published.facts import double_quantization
from peftbench.report.published.heads import precision_of
from peftbench.report.published.load import tables
from peftbench.report.published.measured import MeasuredRow
from peftbench.report.published.parts import targets
from peftbench.report.published.records import Layout, PublishedRow, Source

CLOSE = 1.25
"""Largest ratio of two counts of trainable parameters that are one size: publications round them and count heads."""


def shown_rows(layout: Layout) -> Iterator[tuple[Source, PublishedRow]]:
    """Yield each published row that a layout shows, with its source."""
    for source in layout.published:
        for row in tables()[source.table].rows:
            if not source.groups or row.group in source.groups:
                yield source, row


def candidates(row: MeasuredRow, rows: Sequence[MeasuredRow], layout: Layout) -> Iterator[tuple[Source, PublishedRow]]:
    """Yield the published rows that are of a measured row, the nearest in size of each source first.

    Of measured rows that are alike but for their learning rates, those have a published row that have its rate; so it
    is with double quantization.
    """
    found = []
    for source, printed in shown_rows(layout):
        if not _is_same(row, source, printed, layout):
            continue
        others = [one for one in rows if one is not row and _is_same(one, source, printed, layout)]
        if all(
            value(row, wanted) or not any(value(one, wanted) for one in others)
            for value, wanted in _told_apart_by(source, printed, layout)
        ):
            found.append((source, printed))
    for source in layout.published:
        mine = [printed for of, printed in found if of is source]
        yield from ((source, printed) for printed in sorted(mine, key=lambda printed: _apart(row, printed)))


def _told_apart_by(
    source: Source, printed: PublishedRow, layout: Layout
) -> Iterator[tuple[Callable[[MeasuredRow, Any], bool], Any]]:
    """Yield each setting of a published row that tells alike measured rows apart, with a test for it."""
    yield lambda one, rate: rate in _rates(one), _part_of(source, printed, layout, "learning_rate")
    double = _part_of(source, printed, layout, "double_quantization")
    if double is not None:
        yield lambda one, wanted: double_quantization(one.cell) is wanted, double


def _is_same(row: MeasuredRow, source: Source, printed: PublishedRow, layout: Layout) -> bool:
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
    if not any(column.rank for column in layout.columns):
        rank = rank_of(source, printed, layout)
        if rank is not None and row.cell.rank is not None and rank != row.cell.rank:
            return False
        if "rank" in settings:
            return bool(rank == row.cell.rank)
    return _apart(row, printed) <= math.log(CLOSE)


def rank_of(source: Source, printed: PublishedRow, layout: Layout) -> Any:
    """Return the rank of a published row, as it or its table's protocol states it; None if it is not known."""
    return printed.settings.get("rank", _part_of(source, printed, layout, "rank"))


def _part_of(source: Source, printed: PublishedRow, layout: Layout, part: str) -> Any:
    """Return what is stated of a published row; None if nothing is, or its columns have several."""
    names = (source.columns.get(column.key, column.key) for column in layout.columns)
    values = {stated(tables()[source.table], printed, name).get(part) for name in names}
    return values.pop() if len(values) == 1 else None


def _rates(row: MeasuredRow) -> set[Any]:
    return {one["learning_rate"] for one in row.cell.rows} - {None}


def _apart(row: MeasuredRow, printed: PublishedRow) -> float:
    """Return the logarithm of the ratio of trainable parameters; 0 if one of them is not known."""
    if not printed.parameters or not row.parameters:
        return 0.0
    return abs(math.log(row.parameters / printed.parameters))
