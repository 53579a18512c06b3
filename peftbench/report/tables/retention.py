"""The retention table: loss on held-out general text before and after training, a row per cell."""

from __future__ import annotations

from peftbench.records import units as fmt
from peftbench.report.collect import Results
from peftbench.report.derived.retention import Retained, retained
from peftbench.report.notes import retention as notes
from peftbench.report.tables.table import Column, Row, Table, Value
from peftbench.results.crossed_effects.model import Estimate
from peftbench.results.rows import is_number

_NATS = "nats/token"


def table(results: Results) -> Table | None:
    """Return the retention table; None if nothing was measured."""
    cells = retained(results)
    if not cells:
        return None
    columns = (
        Column("cell", "", ("cell",), "cell", numeric=False),
        Column("loss before", _NATS, ("retention_loss_before",), f"before\n{_NATS}"),
        Column("loss after", _NATS, ("retention_loss_after",), f"after\n{_NATS}"),
        Column(
            "forgetting",
            _NATS,
            ("forgetting", "forgetting_standard_error", "forgetting_low", "forgetting_high"),
            f"forgetting\n{_NATS}",
        ),
        Column("before", "bits/byte", ("retention_bits_per_byte_before",), "before\nbits/byte"),
        Column("after", "bits/byte", ("retention_bits_per_byte_after",), "after\nbits/byte"),
    )
    return Table(columns, tuple(Row(_values(one), one.cell) for one in cells), tuple(notes.notes(cells)))


def _values(one: Retained) -> tuple[Value, ...]:
    losses = one.loss_before, one.loss_after
    before, after = (_value(loss) for loss in losses)
    return (
        Value(one.cell.name, (one.cell.name,)),
        before,
        after,
        _forgetting(one.change),
        *(_value(one.bits_per_byte(loss)) for loss in losses),
    )


def _value(value: float | None) -> Value:
    text = f"{value:.3f}" if is_number(value) else fmt.number(value)
    return Value(text, (value,))


def _forgetting(change: Estimate | None) -> Value:
    if change is None:
        return Value(fmt.MISSING, (None,) * 4)
    text = f"{change.value:+.3f} ({change.low:+.3f} to {change.high:+.3f})"
    return Value(text, (change.value, change.standard_error, change.low, change.high))
