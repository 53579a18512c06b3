"""The ladder of memory as a table: each cell's peak by category beside the cell that it is compared with."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from peftbench.records import Category
from peftbench.records import units as fmt
from peftbench.records.units import Unit
from peftbench.report.collect import MEAN, Results
from peftbench.report.derived.ladder import Rung, inside, ladder
from peftbench.report.notes import ladder as notes
from peftbench.report.tables.table import Column, Row, Table, Value

PEAK = "peak_train_bytes"
_SPEED = "tokens_per_second"
_Pair = tuple[Column, Callable[[Rung], Value]]
_NOTHING = Value(fmt.MISSING, (None, None))


def table(results: Results) -> Table | None:
    """Return the ladder; None if the suite asks for none."""
    rungs = ladder(results)
    if not rungs:
        return None
    unit = fmt.byte_unit(rung.value(PEAK) for rung in rungs)
    pairs = [_number(rungs), _changes(), _bytes("peak", (PEAK,), "peak", unit), _saved()]
    pairs += [_rate(), _outcome(results, rungs)]
    for short in dict.fromkeys(category.short for category in Category):
        alike = [category for category in Category if category.short == short]
        columns = tuple(category.column for category in alike)
        if any(rung.value(column) for rung in rungs for column in columns):
            pairs.append(_bytes(" and ".join(category.heading for category in alike), columns, short, unit))
    pairs += [*([_inside(unit)] if any(map(inside, rungs)) else []), _predicted(unit)]
    rows = tuple(Row(tuple(fill(rung) for _, fill in pairs), rung.cell, _trouble(rung)) for rung in rungs)
    return Table(tuple(column for column, _ in pairs), rows, tuple(notes.notes(results, rungs)))


def _trouble(rung: Rung) -> str:
    return rung.cell.trouble if rung.cell else "not run"


def _number(rungs: Sequence[Rung]) -> _Pair:
    places = {id(rung): number for number, rung in enumerate(rungs, 1)}
    column = Column("row", "", ("row",), "row")
    return column, lambda rung: Value(str(places[id(rung)]), (places[id(rung)],))


def _changes() -> _Pair:
    def fill(rung: Rung) -> Value:
        text = ", ".join(change.text for change in rung.changes) or rung.title
        trouble = _trouble(rung)
        return Value(f"{text} ({trouble})" if trouble else text, (text, rung.cell.name if rung.cell else rung.title))

    return Column("change", "", ("change", "cell"), "change", numeric=False), fill


def _bytes(title: str, columns: tuple[str, ...], short: str, unit: Unit) -> _Pair:
    """Return the sum of some columns in bytes, and in brackets its change; the terminal's table has the change alone.

    Of the peak the terminal's table has the value, as its change is a column.
    """

    def fill(rung: Rung) -> Value:
        values = [rung.value(column) for column in columns]
        if all(value is None for value in values):
            return _NOTHING
        now = sum(value or 0 for value in values)
        before = [rung.before(column) for column in columns]
        if all(value is None for value in before):
            return Value(_size(now, unit), (now, None))
        change = now - sum(value or 0 for value in before)
        signed = _signed(change, unit)
        text = f"{_size(now, unit)} ({signed})" if change else _size(now, unit)
        return Value(text, (now, change), _size(now, unit) if short == "peak" else signed)

    raw = f"{short}_bytes" if len(columns) > 1 else columns[0]
    return Column(title, unit.name, (raw, f"{raw}_change"), f"{short}\n{unit.name}"), fill


def _predicted(unit: Unit) -> _Pair:
    def fill(rung: Rung) -> Value:
        value = rung.value("predicted_train_bytes")
        return Value(_size(value, unit), (value,))

    return Column("predicted peak", unit.name, ("predicted_train_bytes",)), fill


def _inside(unit: Unit) -> _Pair:
    def fill(rung: Rung) -> Value:
        value = rung.value("peak_unexplained_bytes")
        nothing = value is not None and -unit.size / 20 < value <= 0  # the allocator and the ledger round differently
        return Value("0" if nothing else _size(value, unit), (value,))

    head = f"workspace\n{unit.name}"
    return Column("operator workspaces", unit.name, ("peak_unexplained_bytes",), head), fill


def _saved() -> _Pair:
    """Return the share of the peak that is saved."""

    def fill(rung: Rung) -> Value:
        change, before = rung.change(PEAK), rung.before(PEAK)
        share = None if change is None or not before else change / before
        return Value(fmt.MISSING if share is None else _percent(share), (share,))

    return Column("change of the peak", "%", ("peak_change_fraction",), "peak\n± %"), fill


def _rate() -> _Pair:
    """Return tokens per second, and in brackets the ratio to the row that is compared with."""

    def fill(rung: Rung) -> Value:
        now, before = rung.value(_SPEED), rung.before(_SPEED)
        if now is None:
            return _NOTHING
        text = fmt.integer(now)
        return Value(f"{text} (x {now / before:.2f})" if before else text, (now, now / before if before else None))

    return Column("speed", "tokens/s", (_SPEED, "speed_ratio"), "speed\ntokens/s"), fill


def _outcome(results: Results, rungs: Sequence[Rung]) -> _Pair:
    """Return the score; where nothing is scored, the loss at the end of training."""
    task = MEAN if len(results.tasks) > 1 else next(iter(results.tasks), "")
    if any(rung.value(f"score_{task}") is not None for rung in rungs):
        head = "mean" if task == MEAN else task
        return _difference(Column(task, "%", (f"score_{task}", "score_change"), f"{head}\n%"), 100, 1)
    return _difference(Column("loss at the end", "nats/token", ("last_loss", "loss_change"), "loss\nnats/token"), 1, 3)


def _difference(column: Column, scale: float, digits: int) -> _Pair:
    def fill(rung: Rung) -> Value:
        now, change = rung.value(column.raw[0]), rung.change(column.raw[0])
        if now is None:
            return _NOTHING
        text = f"{scale * now:.{digits}f}"
        more = "" if change is None else f" ({round(scale * change, digits) + 0.0:+.{digits}f})"
        return Value(text + more, (now, change))

    return column, fill


def _size(value: float | None, unit: Unit) -> str:
    if value is None:
        return fmt.MISSING
    text = f"{value / unit.size:,.1f}"
    return text if float(text.replace(",", "")) else "<0.1" if value else "0"


def _signed(change: float, unit: Unit) -> str:
    """Return a change with its sign, also if it is too small for one decimal."""
    if not change:
        return "0"
    return f"{'-' if change < 0 else '+'}{_size(abs(change), unit)}"


def _percent(share: float) -> str:
    return f"{100 * share:+.0f}" if abs(share) >= 0.005 else "0" if not share else "+<1" if share > 0 else "-<1"
