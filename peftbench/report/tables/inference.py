"""The table of inference cost: rates and latencies of the tuned model, and of merging, loading and switching."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from peftbench.records import units as fmt
from peftbench.report.collect import Results
from peftbench.report.derived.inference import FIRST_TOKEN, LATER_TOKENS, Measured, Ratio, measured
from peftbench.report.notes import inference as notes
from peftbench.report.tables.table import Column, Row, Table, Value


def table(results: Results) -> Table | None:
    """Return the table of inference cost, a row per measured cell; None if nothing was measured."""
    cells = measured(results)
    if not cells:
        return None
    pairs = [
        (Column("cell", "", ("cell",), "cell", numeric=False), _name),
        *(_mean(cells, *described) for described in _RATES),
        _latency("first token", "first_token", "first token\nms", FIRST_TOKEN),
        _latency("per token", "decoded_token", "per token\nms", LATER_TOKENS),
        _times("prefill", lambda one: one.prefill),
        _times("decode", lambda one: one.decode),
        *(_mean(cells, *described) for described in _REST),
    ]
    rows = tuple(Row(tuple(fill(one) for _, fill in pairs), one.cell) for one in cells)
    return Table(tuple(column for column, _ in pairs), rows, tuple(notes.notes(results, cells)))


def _name(one: Measured) -> Value:
    return Value(one.cell.name, (one.cell.name,))


_RATES = (
    ("prefill_tokens_per_second", "prefill", "tokens/s", 1.0, "prefill\ntokens/s"),
    ("decode_tokens_per_second", "decode", "tokens/s", 1.0, "decode\ntokens/s"),
)
_REST = (
    ("merged_decoded_token_seconds", "merged, per token", "ms", 1e3, "merged\nms"),
    ("largest_merge_logit_difference", "merged, largest logit difference", "logits", 1.0, "merged\nlogits"),
    ("load_adapter_seconds", "load", "ms", 1e3, "load\nms"),
    ("switch_adapter_seconds", "switch", "ms", 1e3, "switch\nms"),
    ("peak_generate_bytes", "peak generate memory", "", 1.0, None),
)
"""Column, title, unit (empty for bytes), factor to it, and the title in the terminal's table."""

_Pair = tuple[Column, Callable[[Measured], Value]]


def _mean(cells: Sequence[Measured], column: str, title: str, unit: str, factor: float, short: str | None) -> _Pair:
    """Return a stored column as its mean over the measured trials."""
    if not unit:
        chosen = fmt.byte_unit(one.cell.mean(column) for one in cells)
        unit, factor = chosen.name, 1 / chosen.size

    def fill(one: Measured) -> Value:
        mean = one.cell.mean(column)
        return Value(fmt.small(None if mean is None else mean * factor), (mean,))

    return Column(title, unit, (f"{column}_mean",), short), fill


def _latency(title: str, name: str, short: str, part: slice) -> _Pair:
    """Return a latency of one prompt: median and quartiles of the raw values."""

    def fill(one: Measured) -> Value:
        found = one.latency(part)
        if found is None:
            return Value(fmt.MISSING, (None, None, None))
        low, middle, high = found
        low_text, text, high_text = (fmt.number(1e3 * value) for value in found)
        return Value(f"{text} ({low_text} to {high_text})", (middle, low, high), text)

    raw_names = (f"{name}_seconds_median", f"{name}_seconds_q1", f"{name}_seconds_q3")
    return Column(title, "ms", raw_names, short), fill


def _times(title: str, ratio: Callable[[Measured], Ratio | None]) -> _Pair:
    """Return the time of a part of generation relative to the base model without the method."""

    def fill(one: Measured) -> Value:
        found = ratio(one)
        if found is None:
            return Value(fmt.MISSING, (None, None, None))
        return Value(_text(found), (found.mean, found.low, found.high), f"{found.mean:.2f}")

    raw = tuple(f"{title}_over_base{end}" for end in ("", "_low", "_high"))
    return Column(title, "× base", raw, f"{title}\n× base"), fill


def _text(ratio: Ratio) -> str:
    """Return "1.31 (1.27 to 1.36)"."""
    return f"{ratio.mean:.2f} ({ratio.low:.2f} to {ratio.high:.2f})"
