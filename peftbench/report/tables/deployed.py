"""The table of the score after deployment: a row per cell and form."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from peftbench.records import units as fmt
from peftbench.report.collect import Results
from peftbench.report.derived.deployed import Deployed, Numbers, deployed
from peftbench.report.notes import deployed as notes
from peftbench.report.tables.table import Column, Row, Table, Value

_Pair = tuple[Column, Callable[[Deployed], Value]]
_DTYPES = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}


def table(results: Results, every: bool = False) -> Table | None:
    """Return the table of the score after deployment; None if no form was asked for.

    Args:
        results: what is reported.
        every: whether forms that a method does not have are rows too; else a note names them.
    """
    found = deployed(results)
    if not found:
        return None
    shown = [one for one in found if every or not one.unsupported]
    pairs = _columns(shown, results.tasks)
    rows = tuple(Row(tuple(fill(one) for _, fill in pairs), one.cell) for one in shown)
    return Table(tuple(column for column, _ in pairs), rows, tuple(notes.notes(found)))


def _columns(shown: Sequence[Deployed], tasks: Sequence[str]) -> list[_Pair]:
    several = len(tasks) > 1
    return [
        (Column("cell", "", ("cell",), "cell", numeric=False), lambda one: Value(one.cell.name, (one.cell.name,))),
        (Column("form", "", ("form",), "form", numeric=False), lambda one: Value(one.form, (one.form,))),
        (Column("weights", "", ("dtype",), None, numeric=False), _dtype),
        _points("scored", "scored", lambda found: found.scored),
        _points("deployed" if several else "score deployed", "deployed", lambda found: found.score),
        *([_task(task) for task in tasks] if several else []),
        (Column("change", "points", ("change", "change_low", "change_high", "p_holm"), "change\npoints"), _change),
        _points("worse", "worse", lambda found: found.worse, "% of examples", "%"),
        _points("better", "better", lambda found: found.better, "% of examples", "%"),
        (Column("loss", "nats/token", ("loss_scored", "loss_deployed"), "loss\nnats/token"), _loss),
        (Column("largest logit difference", "logits", ("largest_logit_difference",), "logits\ndiffer by"), _logits),
        _mean(shown, "stored_bytes", "on disk", "on disk"),
        _mean(shown, "loaded_bytes", "in memory", None),
        _mean(shown, "load_seconds", "load", None),
        (Column("n", "seeds", ("seeds", "status", "message"), "n\n"), _seeds),
    ]


def _dtype(one: Deployed) -> Value:
    kind = one.numbers.dtype if one.numbers else None
    return Value(_DTYPES.get(kind, kind) if kind else fmt.MISSING, (kind,))


def _points(title: str, raw: str, of: Callable[[Numbers], float | None], unit: str = "%", short: str = "%") -> _Pair:
    """Return a fraction of 1 as a percentage."""

    def fill(one: Deployed) -> Value:
        value = of(one.numbers) if one.numbers else None
        return Value(fmt.MISSING if value is None else f"{100 * value:.1f}", (value,))

    return Column(title, unit, (raw,), f"{raw}\n{short}"), fill


def _task(task: str) -> _Pair:
    column, fill = _points(task, f"deployed_{task}", lambda found: found.by_task.get(task))
    return Column(column.title, column.unit, column.raw), fill


def _change(one: Deployed) -> Value:
    found = one.change
    if found is None:
        return Value(fmt.MISSING, (None,) * 4)
    points = [_signed(100 * value, 1) for value in (found.value, found.low, found.high)]
    mark = " ↓" if one.falls else ""
    text = f"{points[0]} ({points[1]} to {points[2]}){mark}"
    short = f"{points[0]}±{100 * found.half_width:.1f}{mark}"
    return Value(text, (found.value, found.low, found.high, one.adjusted_p), short)


def _signed(value: float, digits: int) -> str:
    """Return a number with its sign; 0 has a plus, also where it is rounded to."""
    return f"{round(value, digits) + 0.0:+.{digits}f}"


def _loss(one: Deployed) -> Value:
    found = one.numbers
    if found is None:
        return Value(fmt.MISSING, (None, None))
    return Value(f"{found.loss:.3f} ({_signed(found.loss - found.loss_before, 3)})", (found.loss_before, found.loss))


def _logits(one: Deployed) -> Value:
    value = one.numbers.logit_difference if one.numbers else None
    return Value(fmt.small(value), (value,))


def _mean(shown: Sequence[Deployed], name: str, title: str, short: str | None) -> _Pair:
    found = [one.numbers.means[name] for one in shown if one.numbers]
    values = [value for value in found if value is not None]
    unit = fmt.byte_unit(values) if name.endswith("_bytes") else fmt.Unit("s", 1.0)

    def fill(one: Deployed) -> Value:
        value = one.numbers.means[name] if one.numbers else None
        return Value(fmt.number(None if value is None else value / unit.size), (value,))

    return Column(title, unit.name, (name,), f"{short}\n{unit.name}" if short else None), fill


def _seeds(one: Deployed) -> Value:
    total = sum(one.counts.values())
    others = ", ".join(f"{count} {status}" for status, count in one.counts.items() if status != "ok")
    raw = (one.seeds, others or "ok", "; ".join(one.messages) or None)
    if one.unsupported:
        return Value("unsupported", raw, "n/a")
    return Value(f"{one.seeds} of {total} ({others})" if others else str(total), raw)
