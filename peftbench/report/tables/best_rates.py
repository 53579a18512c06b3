"""The best learning rate of each sweep over learning rates, and its ratio to that of full fine-tuning."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

from peftbench.methods.record import shown
from peftbench.records import units as fmt
from peftbench.report.collect import Results
from peftbench.report.derived.rate_sweeps import Sweep, sweeps, to_reference
from peftbench.report.notes import best_rates as notes
from peftbench.report.tables.table import Column, Row, Table, Value


def table(results: Results) -> Table | None:
    """Return a row per sweep; None if no cells differ in nothing but their learning rate, or in fewer than three."""
    found = sweeps(results)
    if not found:
        return None
    columns = (
        Column("cells", "", ("cells",), "cells", numeric=False),
        Column("rates tried", "", ("learning_rates",), "rates tried", numeric=False),
        Column("best rate", "", ("best_rate",), "best rate"),
        Column("× that of full", "", ("best_rate_to_full", "low", "high"), "x full"),
        Column("seeds", "", ("seeds",), "seeds"),
    )
    return Table(columns, tuple(Row(_values(found, sweep), None) for sweep in found), (notes.measure(found),))


def _values(found: Sequence[Sweep], sweep: Sweep) -> tuple[Value, ...]:
    best = sweep.best
    edge = any(each.edge for each in best)
    rate = math.exp(fmean(math.log(each.rate) for each in best)) if best else None
    text = fmt.MISSING if rate is None else f"{rate:.1e}{' (edge)' if edge else ''}"
    ratio = to_reference(found, sweep)
    tried = ", ".join(map(shown, sweep.rates))
    return (
        Value(sweep.title, (sweep.title,)),
        Value(tried, (tried,)),
        Value(text, (rate,)),
        Value(
            notes.written(ratio) if ratio else fmt.MISSING,
            (ratio and ratio.ratio, ratio and ratio.low, ratio and ratio.high),
        ),
        Value(str(len(best)), (len(best),)),
    )
