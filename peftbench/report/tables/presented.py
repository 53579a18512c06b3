"""A table as people read it: display names, the columns that are asked for, and rows in the order that is asked for."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from peftbench.errors import UserError, nearest
from peftbench.records import units as fmt
from peftbench.report.collect import MEAN, Cell, Results
from peftbench.report.names import display_names, renamed
from peftbench.report.tables import inference, retention
from peftbench.report.tables.table import Column, Row, Table, Value
from peftbench.results.busy_machine import without_busy_times

_LOWER_IS_BETTER = ("bits_per_byte", "perplexity")
_HIGHER_IS_BETTER = ("score_", "probability_", "on_front_", "seeds_", "prefill_tokens", "decode_tokens")
_SHORTHANDS = {"memory": "peak_train_memory", "time": "train_time", "tokens_s": "throughput", "seeds": "n"}
"""What people call columns, beside their own names."""
SCORE = "score"
"""Stands for the mean over tasks, or the score of the only task."""
_UNITS = {"_seconds": "s", "_joules": "J", "_watts": "W"}
_OTHER_TABLES = (retention.table, inference.table)
_CELL = ("method", "precision", "rank")
"""Parts of a cell's identity, each of which can be a column."""


@dataclass(frozen=True)
class Choice:
    """Which columns a table has, and in which order its rows are."""

    columns: tuple[str, ...] = ()
    """Names of columns; empty for those that the table has anyway."""
    sort: str | None = None
    """Name of the column by which rows are sorted, the best first; None for the order that the table has anyway."""


@dataclass(frozen=True)
class _Offer:
    """A column that can be asked for."""

    name: str
    others: frozenset[str]
    """More names by which it is found."""
    column: Column
    values: Callable[[Row], Value]


def read_columns(text: str | None) -> tuple[str, ...]:
    """Return the names in ``a,b,c``.

    Raises:
        UserError: if there is none, or one is empty or given twice.
    """
    if text is None:
        return ()
    names = tuple(part.strip() for part in text.split(","))
    if not all(names):
        raise UserError(
            f"--columns: given {text!r}; allowed: names of columns with commas between them: cell,mean,peak"
        )
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"--columns: {twice!r} is given twice")
    return names


def presented(whole: Table, results: Results, choice: Choice) -> Table:
    """Return a comparison table with display names, and the columns and the order that are asked for.

    Rows without a value of the column that sorts come after the others, then cells without any result, and the rows of
    chance and majority last.

    Args:
        whole: the comparison table.
        results: what it is about.
        choice: columns and order.

    Raises:
        UserError: if there is no column of a name.
    """
    offers = _Offers(whole, results)
    rows = whole.rows
    if choice.sort is not None:
        by = offers.named("--sort", choice.sort)
        if by.name != "cell":
            rows = _sorted(rows, by, results)
    if choice.columns:
        chosen = [offers.named("--columns", name) for name in choice.columns]
        columns = tuple(replace(one.column, short=one.column.short or _head(one.column)) for one in chosen)
        rows = tuple(replace(row, values=tuple(one.values(row) for one in chosen)) for row in rows)
        whole = replace(whole, columns=columns)
    return with_names(replace(whole, rows=rows), results)


def with_names(table: Table, results: Results) -> Table:
    """Return a table about cells whose texts have the cells' display names; raw values keep the exact ones."""
    names = display_names(results.cells)
    rows = tuple(
        replace(row, values=tuple(_named(value, row.cell, names) for value in row.values)) if row.cell else row
        for row in table.rows
    )
    return Table(table.columns, rows, tuple(renamed(note, names) for note in table.notes))


def _named(value: Value, cell: Cell, names: Mapping[str, str]) -> Value:
    return replace(value, text=names[cell.name]) if value.text == cell.name and value.raw[0] == cell.name else value


class _Offers:
    """The columns that can be asked for; those of other tables are computed if the table itself has none of a name."""

    def __init__(self, whole: Table, results: Results) -> None:
        self._results, self._own = results, tuple(_own(whole))
        self._others: tuple[_Offer, ...] | None = None

    def named(self, option: str, name: str) -> _Offer:
        wanted = _plain(name)
        wanted = _SHORTHANDS.get(wanted, wanted)
        if wanted == SCORE:
            wanted = _plain(MEAN) if len(self._results.tasks) > 1 else _plain(next(iter(self._results.tasks), MEAN))
        found = _find(self._own, wanted) or _find(self._more(), wanted) or self._stored(wanted)
        if found is None:
            raise UserError(self._unknown(option, name))
        return found

    def _more(self) -> tuple[_Offer, ...]:
        if self._others is None:
            tables = [table for make in _OTHER_TABLES if (table := make(self._results))]
            self._others = tuple(offer for table in tables for offer in _joined(table))
        return self._others

    def _stored(self, name: str) -> _Offer | None:
        """Return a numeric column of the stored trials as its mean over a cell's seeds; of a time, the quiet ones."""
        trials, stem = self._results.trials, name.removesuffix("_mean")
        if stem not in trials or trials[stem].dtype.kind not in "iuf":
            return None
        size = fmt.byte_unit(trials[stem].dropna()) if stem.endswith("_bytes") else None
        unit = size or fmt.Unit(next((unit for end, unit in _UNITS.items() if stem.endswith(end)), ""), 1.0)
        column = Column(stem.replace("_", " "), unit.name, (f"{stem}_mean", f"{stem}_sd"))

        def value(row: Row) -> Value:
            ok = row.cell.ok if row.cell else trials[:0]
            known = list(map(float, without_busy_times(ok)[stem].dropna()))
            mean = statistics.fmean(known) if known else None
            sd = statistics.stdev(known) if len(set(known)) > 1 else None
            text = fmt.small(None if mean is None else mean / unit.size)
            whole = text if sd is None else f"{text} ± {fmt.small(sd / unit.size)}"
            of = f" (n={len(known)})" if known and len(known) < ok[stem].notna().sum() else ""
            return Value(whole + of, (mean, sd), text)

        return _Offer(stem, frozenset(), column, value)

    def _unknown(self, option: str, name: str) -> str:
        offers = (*self._own, *self._more())
        every = {other: offer.name for offer in offers for other in (*offer.others, offer.name)}
        near = nearest(_plain(name), [*every, *_SHORTHANDS, SCORE])
        hint = f" did you mean {every.get(near, near)!r}?" if near else ""
        known = ", ".join(offer.name for offer in offers)
        return f"{option}: unknown column {name!r};{hint} allowed: {known}, or a number in results/README.md"


def _own(whole: Table) -> Iterator[_Offer]:
    """Yield the columns of the comparison table, and those of a cell's identity."""
    for place, column in enumerate(whole.columns):
        heads = {_plain(column.short.partition("\n")[0])} if column.short else set()
        raw = {name for name in column.raw if place or name not in _CELL}
        plain = {name.removesuffix("_mean") for name in raw}
        others = frozenset(heads | raw | plain)
        yield _Offer(_plain(column.title), others, column, lambda row, place=place: row.values[place])  # type: ignore[misc]
    for name in _CELL:
        yield _Offer(name, frozenset(), Column(name, "", (name,), name, numeric=name == "rank"), _part(name))


def _part(name: str) -> Callable[[Row], Value]:
    def value(row: Row) -> Value:
        found = getattr(row.cell, name) if row.cell else None
        return Value(fmt.MISSING if found is None else str(found), (found,))

    return value


def _joined(table: Table) -> Iterator[_Offer]:
    """Yield the columns of another table about cells, each named after what is stored."""
    rows = {row.cell.name: row.values for row in table.rows if row.cell}
    for place, column in enumerate(table.columns):
        if place:
            missing = Value(fmt.MISSING, (None,) * len(column.raw))

            def value(row: Row, place: int = place, missing: Value = missing) -> Value:
                found = rows[row.cell.name][place] if row.cell and row.cell.name in rows else missing
                return replace(found, short=found.short or found.text.partition(" (")[0])  # without the interval

            name = column.raw[0].removesuffix("_mean")
            yield _Offer(name, frozenset((*column.raw, _plain(column.title))), column, value)


def _find(offers: Iterable[_Offer], wanted: str) -> _Offer | None:
    known = tuple(offers)
    by_name = next((offer for offer in known if offer.name == wanted), None)
    return by_name or next((offer for offer in known if wanted in offer.others), None)


def _plain(name: str) -> str:
    """Return a column's name as it is compared: ``peak_train_memory`` for "Peak train memory"."""
    return re.sub(r"[^\w]+", "_", name.lower()).strip("_")


def _head(column: Column) -> str:
    """Return a head of two lines for a column that the terminal's table usually leaves out."""
    return f"{column.title}\n{column.unit}"


def _sorted(rows: Sequence[Row], by: _Offer, results: Results) -> tuple[Row, ...]:
    """Return rows with the best first: the highest scores and rates, the lowest costs; words by the alphabet."""
    sign = -1.0 if _is_higher_better(by, results) else 1.0

    def key(row: Row) -> tuple[int, bool, float, str]:
        group = (2 if not row.trouble else 1) if row.cell is None else 0
        first: Any = next(iter(by.values(row).raw), None)
        if isinstance(first, str):
            return group, False, 0.0, first
        known = first is not None and first == first and math.isfinite(first)
        return group, not known, sign * float(first) if known else 0.0, ""

    return tuple(sorted(rows, key=key))


def _is_higher_better(by: _Offer, results: Results) -> bool:
    stored = by.column.raw[0]
    if by.column.title in results.tasks and stored.startswith("score_"):
        return results.score_record(by.column.title).get("metric") not in _LOWER_IS_BETTER
    return stored.startswith(_HIGHER_IS_BETTER) or "tokens_per_second" in stored
