"""What training forgot: loss on held-out general text before and after, a row per cell; from raw losses.

A cell's difference is a ratio of sums over the texts, D = sum of nats gained / sum of tokens. Its standard error is
that of linearised values per text, (nats - D tokens) / mean tokens + D, whose mean is D (Cochran 1977, Sampling
Techniques, chapter 6), in the crossed model of seeds and texts: texts are paired before and
after, seeds belong to training alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import log

import numpy as np

from peftbench.report import format as fmt
from peftbench.report.collect import Cell, Results, read_json
from peftbench.report.tables.table import Column, Row, Table, Value
from peftbench.results.crossed_effects.model import Array, Estimate, Outcomes, difference

_NATS = "nats/token"


@dataclass(frozen=True)
class Retained:
    """A cell with its texts' raw losses in nats: those before are the mean over its trials, which hardly differ."""

    cell: Cell
    tokens: Array
    """(texts,)"""
    before: Array
    """(texts,)"""
    after: Array | None
    """(seeds, texts); None for the untuned base."""

    @property
    def loss_before(self) -> float:
        """In nats per token."""
        return float(self.before.sum() / self.tokens.sum())

    @property
    def loss_after(self) -> float | None:
        """In nats per token, the mean over seeds."""
        return None if self.after is None else float(self.after.mean(axis=0).sum() / self.tokens.sum())

    @cached_property
    def change(self) -> Estimate | None:
        """The difference in nats per token with its interval; None for the untuned base and for a single text."""
        if self.after is None or len(self.tokens) < 2:
            return None
        rate = (self.loss_after or 0.0) - self.loss_before
        after = (self.after - rate * self.tokens) / self.tokens.mean() + rate
        return difference(Outcomes.of(self.before[None] / self.tokens.mean(), seedless=True), Outcomes.of(after))

    def bits_per_byte(self, loss: float | None) -> float | None:
        """Return a loss in nats per token as bits per UTF-8 byte; None where the bytes are not known."""
        size = self.cell.mean("retention_bytes")
        return None if loss is None or not size else loss * float(self.tokens.sum()) / size / log(2)


def retained(results: Results) -> tuple[Retained, ...]:
    """Return the finished cells whose trials all were measured on the same texts, in the order of the comparison."""
    found = []
    for cell in results.finished:
        texts = cell.ok.get("retention_json", [])
        raw = [read_json(text) for text in texts]
        if not raw or not all(one.get("tokens") == raw[0].get("tokens") and one.get("before") for one in raw):
            continue
        after = None if cell.is_base else np.asarray([one.get("after") or [] for one in raw], dtype=float)
        if after is None or after.shape == (len(raw), len(raw[0]["tokens"])):
            before = np.asarray([one["before"] for one in raw], dtype=float).mean(axis=0)
            found.append(Retained(cell, np.asarray(raw[0]["tokens"], dtype=float), before, after))
    return tuple(found)


def table(results: Results) -> Table | None:
    """Return the table of retention; None where nothing was measured."""
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
    return Table(columns, tuple(Row(_values(one), one.cell) for one in cells), tuple(_notes(cells)))


def _values(one: Retained) -> tuple[Value, ...]:
    losses = one.loss_before, one.loss_after
    before, after = (_value(loss) for loss in losses)
    return (
        Value(one.cell.name, (one.cell.name,), sort=one.cell.name),
        before,
        after,
        _forgetting(one.change),
        *(_value(one.bits_per_byte(loss)) for loss in losses),
    )


def _value(value: float | None) -> Value:
    return Value(fmt.MISSING if value is None else f"{value:.3f}", (value,), sort=value)


def _forgetting(change: Estimate | None) -> Value:
    if change is None:
        return Value(fmt.MISSING, (None,) * 4)
    text = f"{change.value:+.3f} ({change.low:+.3f} to {change.high:+.3f})"
    return Value(text, (change.value, change.standard_error, change.low, change.high), sort=change.value)


def _notes(cells: Sequence[Retained]) -> Iterable[str]:
    sizes = {(len(one.tokens), int(one.tokens.sum())) for one in cells}
    texts, tokens = next(iter(sizes))
    noun = "text" if texts == 1 else "texts"
    held = (
        f"{texts:,} {noun}, {tokens:,} predicted tokens" if len(sizes) == 1 else "texts that differ from cell to cell"
    )
    scopes = {one.change.scope.replace("examples", "texts") for one in cells if one.change}
    meant = f" Intervals are at 95 % for {' or for '.join(sorted(scopes))}." if scopes else ""
    yield (
        f"Retention: loss on held-out general text ({held}) of the untouched base and after training, at the cell's "
        f"precision. Forgetting is after less before, paired by text; above zero, the model got worse.{meant}"
    )
    if texts == 1:
        yield "Of a single text no forgetting is told, as it has no interval: is evaluate.retention.separator right?"
    hashes = {text for one in cells for text in one.cell.ok["retention_sha256"].dropna()}
    if len(hashes) > 1 and len({one.cell.summary.base for one in cells}) == 1:
        yield "Not all cells read the same general text: their losses do not compare."
    void = [one.cell.name for one in cells if one.change and one.change.low <= 0 <= one.change.high]
    if void:
        yield f"No forgetting can be told from none: {', '.join(void)}."
