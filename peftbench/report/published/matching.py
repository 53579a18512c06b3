"""Which published rows are of a measured one."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from peftbench.report.published.badges import stated
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

    Of measured rows that are alike but for their learning rates, those have a published row that have its rate.
    """
    found = []
    for source, printed in shown_rows(layout):
        if _is_same(row, printed, layout):
            rate = _rate_of(source, printed, layout)
            others = (one for one in rows if rate in _rates(one) and _is_same(one, printed, layout))
            if rate in _rates(row) or not any(others):
                found.append((source, printed))
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


def _rate_of(source: Source, printed: PublishedRow, layout: Layout) -> Any:
    """Return the learning rate that is stated of a published row; None if none is, or several are."""
    names = (source.columns.get(column.key, column.key) for column in layout.columns)
    rates = {stated(tables()[source.table], printed, name).get("learning_rate") for name in names}
    return rates.pop() if len(rates) == 1 else None


def _rates(row: MeasuredRow) -> set[Any]:
    return {one["learning_rate"] for one in row.cell.rows} - {None}


def _apart(row: MeasuredRow, printed: PublishedRow) -> float:
    """Return the logarithm of the ratio of trainable parameters; 0 if one of them is not known."""
    if not printed.parameters or not row.parameters:
        return 0.0
    return abs(math.log(row.parameters / printed.parameters))
