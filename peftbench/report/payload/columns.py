"""The columns of the page's table: everything that is known about a cell, each with title, unit and definition."""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, get_args, get_type_hints

from peftbench.records import TrialRow
from peftbench.records import units as fmt
from peftbench.records.columns.group import ColumnGroup
from peftbench.records.memory import Category
from peftbench.report.collect import Cell, Results
from peftbench.report.derived import inference, rates, retention
from peftbench.report.derived.significance import Significance
from peftbench.report.payload.attempt import Pieces
from peftbench.report.tables.task_metrics import task_metrics
from peftbench.results.busy_machine import is_time, quiet_rows, waiting_share
from peftbench.results.rows import is_number

Kind = Literal["text", "number", "percent"]
Shown = float | str | None


@dataclass(frozen=True)
class Column:
    """One column: a value for each cell, None where it was not measured or does not apply."""

    name: str
    """Its name in a file and in the page's address."""
    title: str
    group: str
    definition: str
    values: tuple[Shown, ...]
    unit: str = ""
    size: float = 1.0
    """How many base units the shown unit is; values are in base units."""
    kind: Kind = "number"
    """A number has three significant digits, a percent (a fraction of 1) one decimal."""

    @property
    def known(self) -> bool:
        """Whether any cell has a value."""
        return any(value is not None for value in self.values)


TITLES = {
    "trainable_parameters": "trainable parameters",
    "head_parameters": "parameters of the head",
    "checkpoint_bytes": "checkpoint",
    "base_weights_bytes": "base weights",
    "peak_train_bytes": "peak memory",
    "peak_run_reserved_bytes": "memory reserved, whole run",
    "not_training_seconds": "counted as training, but no steps",
    "peak_evaluate_bytes": "peak memory, evaluation",
    "peak_generate_bytes": "peak memory, generation",
    "tokens_per_second": "tokens/s",
    "processed_tokens_per_second": "processed tokens/s",
    "loss_tokens_per_second": "tokens/s in the loss",
    "train_seconds": "train time",
    "wall_seconds": "time of a trial",
    "largest_merge_logit_difference": "merged, largest logit difference",
    **{category.column: f"{category.heading} at the peak" for category in Category},
}
_GROUPS = {
    "TimeColumns": "Time",
    "MemoryColumns": "Memory",
    "SizeColumns": "Size",
    "WorkColumns": "Work and speed",
    "InferenceColumns": "Inference",
    "RetentionColumns": "Forgetting",
    "DeployedColumns": "After deployment",
    "SanityColumns": "Checks",
    "EffectiveColumns": "As computed",
    "EnvironmentColumns": "Machine",
    "DataColumns": "Data",
}
_FIRST = ("Cell", "Score", "Memory", "Time", "Work and speed", "Size", "Forgetting", "Inference", "Front")
"""The order of the groups; the others follow."""


_QUIET = "; trials on a busy machine are left out"
"""What is true of every time and rate."""


def columns(results: Results, known: Significance, pieces: Pieces) -> tuple[Column, ...]:
    """Return every column that a cell has a value in, in groups; the score of the chosen task is not among them."""
    cells = results.cells
    groups: tuple[tuple[str, Callable[[], Iterable[Column]]], ...] = (
        ("method, rank and precision", lambda: _identity(results)),
        ("other metrics", lambda: _metrics(results)),
        ("stored columns", lambda: _stored(cells)),
        ("rates", lambda: _rates(results)),
        ("step times", lambda: _step_times(results)),
        ("forgetting", lambda: _forgetting(results)),
        ("inference cost", lambda: _inference(results)),
        ("the front", lambda: _fronts(cells, known)),
    )
    found = [c for what, made in groups for c in pieces.make(f"columns of {what}", lambda m=made: tuple(m()), ())]  # type: ignore[misc]
    order = {name: place for place, name in enumerate(_FIRST)}
    return tuple(sorted((c for c in found if c.known), key=lambda c: order.get(c.group, len(order))))


def _identity(results: Results) -> Iterable[Column]:
    cells = results.cells
    described: tuple[tuple[str, str, str, Callable[[Cell], Shown]], ...] = (
        ("method", "method", "fine-tuning method, with the tuner of peft if it is one", lambda c: c.title),
        (
            "rank",
            "rank",
            "r of LoRA, width of an adapter, virtual tokens of a prompt; equal ranks are not equal sizes",
            lambda c: c.rank,
        ),
        (
            "precision",
            "precision",
            "how the base model's weights are stored and computed with",
            lambda c: c.precision,
        ),
        ("base", "base", "base model", lambda c: c.summary.base),
        ("suite", "suite", "suite of the trials", lambda c: _one(row["suite"] for row in c.rows)),
    )
    for name, title, definition, of in described:
        kind: Kind = "number" if name == "rank" else "text"
        yield Column(name, title, "Cell", definition, tuple(of(cell) for cell in cells), kind=kind)
    trials = tuple(f"{len(c.ok)} of {len(c.trials)}" + (f" ({c.trouble})" if c.trouble else "") for c in cells)
    yield Column("trials", "trials ok", "Cell", "trials that ended ok, of all trials of the cell", trials, kind="text")
    timed = tuple(_timed(cell) for cell in cells)
    if any(timed):
        what = "of the trials that ended ok, those measured on an idle machine; means of times are over these"
        yield Column("timed_trials", "trials timed", "Cell", what, timed, kind="text")
    rate = tuple(_common(cell, "learning_rate") for cell in cells)
    yield Column("learning_rate", "learning rate", "Cell", documented("learning_rate"), rate)


def _timed(cell: Cell) -> str | None:
    """Return of how many trials the times are, "2 of 3"; None if of all."""
    quiet = quiet_rows(cell.ok_rows)
    return f"{len(quiet)} of {len(cell.ok)}" if len(quiet) < len(cell.ok) else None


def _one(values: Any) -> str:
    return ", ".join(sorted({str(value) for value in values}))


def _common(cell: Cell, column: str) -> float | None:
    found = {row[column] for row in cell.rows if is_number(row.get(column))}
    return float(found.pop()) if len(found) == 1 else None


def _metrics(results: Results) -> Iterable[Column]:
    """Yield each task's other metrics."""
    for one in task_metrics(results):
        values = dict(one.lines)
        for place, name in enumerate(one.names):
            each = tuple(values[c.name][place] if c.name in values else None for c in results.cells)
            kind: Kind = "percent" if one.fractions[place] else "number"
            unit = "%" if kind == "percent" else ""
            title = f"{one.task}: {name}"
            yield Column(
                f"{one.task}.{name}", title, "Score", f"{name} on {one.task}, mean over seeds", each, unit, 1.0, kind
            )


def _stored(cells: Sequence[Cell]) -> Iterable[Column]:
    """Yield every measured column of the results, as means over the trials that ended ok."""
    groups = _groups()
    names = dict.fromkeys(name for cell in cells for name in cell.summary.spreads if name in groups)
    for name in sorted(names, key=list(groups).index):
        yield stored(name, cells)


def stored(name: str, cells: Sequence[Cell]) -> Column:
    """Return a stored column as means over the trials that ended ok."""
    values = tuple(cell.mean(name) for cell in cells)
    unit, size = _unit(name, values)
    title = TITLES.get(name, _plain_title(name))
    definition = documented(name) + (_QUIET if is_time(name) or is_time(name, "inference") else "")
    return Column(name, title, _GROUPS.get(_groups()[name], "Other"), definition, values, unit, size)


def _plain_title(name: str) -> str:
    return re.sub(r"_(bytes|seconds)$", "", name).replace("_per_second", "/s").replace("_", " ")


def _unit(name: str, values: Iterable[float | None]) -> tuple[str, float]:
    if name.endswith("_bytes"):
        unit = fmt.byte_unit(values)
        return unit.name, unit.size
    if name.endswith("_seconds"):
        known = [abs(value) for value in values if value]
        return ("ms", 1e-3) if known and statistics.median_low(known) < 0.1 else ("s", 1.0)
    return "", 1.0


@cache
def _groups() -> dict[str, str]:
    """Return the group of each column of ``trials``, by the class that declares it."""
    classes = [c for c in TrialRow.__mro__ if issubclass(c, ColumnGroup) and c is not TrialRow]
    return {name: c.__name__ for c in classes for name in c.__annotations__}


@cache
def _hints() -> dict[str, Any]:
    return get_type_hints(TrialRow, include_extras=True)


def documented(name: str) -> str:
    """Return the meaning of a column as its record declares it."""
    return str(get_args(_hints()[name])[1])


_OF_ALL = ("padding", "waiting_share")
"""Rates that do not follow from a time, so that a busy machine does not spoil them."""


def _rates(results: Results) -> Iterable[Column]:
    """Yield what follows from stored rates: padding, utilization, examples per joule, waiting for a CPU."""

    def padding(cell: Cell, row: Any) -> float | None:
        virtual = (cell.rank or 0) if cell.record is not None and cell.record.virtual_tokens else 0
        return rates.padding(row, virtual)

    made: tuple[tuple[str, str, str, Kind, Callable[[Cell, Any], float | None]], ...] = (
        ("padding", "padding", "share of padding among the data positions in training", "percent", padding),
        (
            "utilization",
            "MFU",
            "achieved FLOP/s over those of the fastest square matrix product on the same device in the same data type",
            "percent",
            lambda _, row: rates.utilization(row),
        ),
        (
            "achieved_flops",
            "FLOP/s",
            "achieved FLOP/s of training: matrix products as executed, two per multiply-add",
            "number",
            lambda _, row: rates.achieved(row),
        ),
        (
            "samples_per_joule",
            "examples/J",
            "training examples per joule; only if nothing else is known to have run there",
            "number",
            lambda _, row: rates.samples_per_joule(row),
        ),
        (
            "waiting_share",
            "waiting for a CPU",
            "largest share of the training's thread-seconds spent waiting for a CPU; above 5 % times are not reliable",
            "percent",
            lambda _, row: waiting_share(row),
        ),
    )
    trained = [any(is_number(row.get("train_seconds")) for row in cell.ok_rows) for cell in results.cells]
    rows = [cell.ok_rows if ran else () for cell, ran in zip(results.cells, trained, strict=True)]
    quiet = [quiet_rows(own) for own in rows]
    for name, title, definition, kind, of in made:
        merge = max if name == "waiting_share" else statistics.fmean
        values = []
        for cell, own in zip(results.cells, rows if name in _OF_ALL else quiet, strict=True):
            each = [value for row in own if (value := of(cell, row)) is not None]
            values.append(merge(each) if each else None)
        unit = "%" if kind == "percent" else ""
        yield Column(name, title, "Work and speed", definition, tuple(values), unit, 1.0, kind)


def _step_times(results: Results) -> Iterable[Column]:
    """Yield the 5th and 95th percentile of the steady steps' times, means over trials."""
    if not len(results.steps):
        return
    found = [[rates.trial_steps(results, row["key"]) for row in quiet_rows(cell.ok_rows)] for cell in results.cells]
    for name, share in (("step_p5", 0.05), ("step_p95", 0.95)):
        known = [[one.p5 if share < 0.5 else one.p95 for one in own if one] for own in found]
        each = [[seconds for seconds in own if is_number(seconds)] for own in known]
        values = tuple(statistics.fmean(times) if times else None for times in each)
        title = f"step time, {100 * share:.0f}th percentile"
        yield Column(name, title, "Work and speed", f"{title}, without warm-up steps", values, "ms", 1e-3)


def _forgetting(results: Results) -> Iterable[Column]:
    found = {one.cell.name: one.change for one in retention.retained(results)}
    meaning = "rise of the loss on held-out general text through training; 0 is none, negative is an improvement"
    parts = (
        ("forgetting", "forgetting", lambda e: e.value, meaning),
        ("forgetting_low", "forgetting, lower bound", lambda e: e.low, "lower end of its 95 % interval"),
        ("forgetting_high", "forgetting, upper bound", lambda e: e.high, "upper end of its 95 % interval"),
    )
    for name, title, of, definition in parts:
        values = tuple(of(change) if (change := found.get(c.name)) else None for c in results.cells)
        yield Column(name, title, "Forgetting", definition, values, "nats/token")


def _inference(results: Results) -> Iterable[Column]:
    found = {one.cell.name: one for one in inference.measured(results)}
    what = "relative to the base model without the method, measured alternately in the same process; 1 is no slower"
    ratios = (
        ("decode", "time between two tokens of one prompt", lambda m: m.decode),
        ("prefill", "time until the first tokens of a batch", lambda m: m.prefill),
    )
    for name, part, of in ratios:
        each = [of(one) if (one := found.get(c.name)) else None for c in results.cells]
        means = tuple(ratio.mean if ratio else None for ratio in each)
        yield Column(f"{name}_over_base", name, "Inference", f"{part}, {what}", means, "× base")
        bounds = ((ratio.low, ratio.high) if ratio else (None, None) for ratio in each)
        texts = tuple(f"{low:.2f} to {high:.2f}" if low is not None else None for low, high in bounds)
        title = f"{name}, 95 % interval"
        yield Column(f"{name}_interval", title, "Inference", f"of {name}, over repeats", texts, "× base", kind="text")
    for name, part_of in (("first_token", inference.FIRST_TOKEN), ("per_token", inference.LATER_TOKENS)):
        title = name.replace("_", " ")
        quartiles = [one.latency(part_of) if (one := found.get(c.name)) else None for c in results.cells]
        texts = tuple(q and f"{fmt.number(1e3 * q[0])} to {fmt.number(1e3 * q[2])}" for q in quartiles)
        meaning = f"first to third quartile of the time of one prompt, {title}"
        yield Column(f"{name}_quartiles", f"{title}, quartiles", "Inference", meaning, texts, "ms", kind="text")
    merge = tuple(_merged(found.get(cell.name)) for cell in results.cells)
    yield Column("merge", "merges", "Inference", "whether it can be merged into the base's weights", merge, kind="text")


def _merged(one: inference.Measured | None) -> str | None:
    if one is None or one.cell.is_base:
        return None
    if one.cannot_merge:
        return f"no: {one.cannot_merge}"
    if one.merges:
        return "yes"
    reason = one.reason("merge")
    return f"not measured: {reason}" if reason else None


def _fronts(cells: Sequence[Cell], known: Significance) -> Iterable[Column]:
    for cost, shares in known.fronts.items():
        definition = (
            f"probability that no other cell has at least its score at no higher {cost}, for new seeds and examples; "
            "being on the front is not being good"
        )
        values = tuple(shares.get(cell.name) for cell in cells)
        yield Column(f"on_front_{cost}", f"on the front by {cost}", "Front", definition, values, "%", 1.0, "percent")
