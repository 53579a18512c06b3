"""The cells of results folders as rows of a layout: values, intervals, and what differs significantly."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from peftbench.report.collect import Cell, read_json
from peftbench.report.folders import Part
from peftbench.report.published import counted
from peftbench.report.published.facts import Shown, base_of, methods_of
from peftbench.report.published.load import tables
from peftbench.report.published.parts import targets
from peftbench.report.published.records import Layout, LayoutColumn
from peftbench.results.busy_machine import without_busy_times
from peftbench.results.crossed_effects.model import Estimate, Outcomes, score
from peftbench.results.crossed_effects.ranking import rank
from peftbench.results.crossed_effects.student import t_quantile
from peftbench.results.rows import is_number
from peftbench.results.seeds import spread_of

Mark = Literal["", "best", "second", "worse"]
MEANT = "new seeds and new examples"
"""What an interval and a test are for, if seeds are several."""
_MOST_DIGITS = 4
"""Most decimals that a column gets for its smallest value."""


@dataclass(frozen=True)
class Measured:
    """One measured value, in the unit of its column."""

    part: Part
    """The results folder that it is of."""
    shown: Shown
    value: float
    sd: float | None
    """Standard deviation over seeds; None for one."""
    seeds: int
    low: float | None = None
    """Lower end of the 95 % interval; None if there is none."""
    high: float | None = None
    over: str = ""
    """What the interval is for: new seeds and new examples, ..."""
    examples: int | None = None
    """Scored examples; None for a quantity."""
    mark: Mark = ""
    adjusted_p: float | None = None
    """Of the comparison with the best of its block, Holm's; None for the best, and where nothing is tested."""
    tasks: tuple[str, ...] = ()
    """Tasks whose stored outcomes its mean is; empty if it is no mean of outcomes."""
    digits: int = 0
    """Decimals, one number for all measured values of its column."""


@dataclass(frozen=True)
class MeasuredRow:
    """One row of a layout: a cell, or cells of several folders that are one in all but the task or the rank."""

    part: Part
    cell: Cell
    """The first of its cells."""
    base: str | None
    """In the literature; None if it has no name there, or columns are base models."""
    method: str | None
    """In the literature."""
    task: str | None
    """Name of the row's task, if tasks are rows."""
    values: Mapping[str, Measured] = field(default_factory=dict)
    """By the key of a column."""
    statuses: Mapping[str, str] = field(default_factory=dict)
    """Key of a column to how all trials of its cell ended, if none is ok."""

    @property
    def targets(self) -> frozenset[str]:
        """Target modules, without the words around their letters; empty if the method has none."""
        given = (read_json(self.cell.rows[0]["settings_json"]).get("options") or {}).get("target_modules")
        return targets(given) if given else frozenset()

    @property
    def parameters(self) -> float | None:
        """Trainable parameters; None if no trial counted them."""
        return self.cell.mean("trainable_parameters")


def rows(parts: Sequence[Part], layout: Layout) -> tuple[MeasuredRow, ...]:
    """Return the measured rows of a layout; cells without a value or a status in any column are left out."""
    found: dict[tuple[Any, ...], MeasuredRow] = {}
    for part in parts:
        for cell in part.results.cells:
            for task in layout.row_tasks or (None,):
                one = _row(part, cell, layout, task)
                if one.values or one.statuses:
                    _add(found, one, layout)
    made = list(found.values())
    for column in layout.columns:
        _marked(made, column.key)
    averaged = _averaged(made, layout)
    digits = {column.key: _digits(averaged, column) for column in layout.columns}
    return tuple(
        replace(row, values={key: replace(one, digits=digits[key]) for key, one in row.values.items()})
        for row in averaged
    )


def _digits(found: Iterable[MeasuredRow], column: LayoutColumn) -> int:
    """Return the decimals of a column, or more, up to four, if its smallest value has less than it needs.

    A cost has two significant digits, as costs of 0.7 and of 1.1 MB are not alike; a score has one that is not zero.
    """
    known = [abs(row.values[column.key].value) for row in found if column.key in row.values]
    smallest = min(filter(None, known), default=1.0)
    wanted = (1 if column.quantity else 0) - math.floor(math.log10(smallest))
    return max(column.digits, min(wanted, _MOST_DIGITS))


def _add(found: dict[tuple[Any, ...], MeasuredRow], one: MeasuredRow, layout: Layout) -> None:
    """Add a row; one that is the same in all but columns that are still empty becomes part of it."""
    key = _identity(one, layout)
    number = 0
    while (same := found.get((*key, number))) is not None:
        if not {*same.values, *same.statuses} & {*one.values, *one.statuses}:
            merged = {**same.values, **one.values}
            found[(*key, number)] = replace(same, values=merged, statuses={**same.statuses, **one.statuses})
            return
        number += 1
    found[(*key, number)] = one


def _identity(one: MeasuredRow, layout: Layout) -> tuple[Any, ...]:
    cell, columns = one.cell, layout.columns
    base = None if any(column.base for column in columns) else one.base or cell.rows[0]["base"]
    size = None if any(column.rank for column in columns) else cell.rank
    return one.task, base, one.method or cell.kind, size, cell.precision, tuple(sorted(one.targets)), cell.variant


def _row(part: Part, cell: Cell, layout: Layout, task: str | None) -> MeasuredRow:
    base = base_of(cell)
    trained = list(counted.training_tasks(cell))
    values: dict[str, Measured] = {}
    statuses: dict[str, str] = {}
    for column in layout.columns:
        if column.mean_of or (column.base and column.base != base) or (column.rank and column.rank != cell.rank):
            continue
        if column.trained_on and not any(counted.matches(name, one, column.trained_on) for name, one in trained):
            continue
        match = layout.row_tasks[task] if task else column.task
        tasks = counted.tasks_of(cell, part, match) if match else ()
        if match and not tasks:
            continue
        if not cell.ok_rows:
            statuses[column.key] = next(iter(cell.troubles), "")
            continue
        found = _score(part, cell, column, tasks) if match else _quantity(part, cell, column)
        if found:
            values[column.key] = found
    pivot = any(column.base for column in layout.columns)
    return MeasuredRow(part, cell, None if pivot else base, _method(cell, layout), task, values, statuses)


def _method(cell: Cell, layout: Layout) -> str | None:
    """Return the name of a cell's method that the layout's tables use, best for its precision, else any that it has."""
    found = methods_of(cell)
    printed = [row for source in layout.published for row in tables()[source.table].rows]
    of_precision = {row.method for row in printed if row.settings.get("precision") == cell.precision}
    used = {row.method for row in printed}
    return next((name for names in (of_precision, used, found) for name in found if name in names), None)


def _score(part: Part, cell: Cell, column: LayoutColumn, tasks: tuple[str, ...]) -> Measured | None:
    """Return the mean over seeds of a score, or of the mean of several tasks; None if a seed lacks the metric."""
    stored = [read_json(row.get("scores_json")) for row in cell.ok_rows]
    records = [[one.get(task) for task in tasks] for one in stored]
    known = [[record for record in each if isinstance(record, dict)] for each in records]
    if known != records:
        return None
    for metric in column.metrics:
        values = [[_metric(record, metric) for record in each] for each in known]
        if not all(is_number(value) for each in values for value in each):
            continue
        spread = spread_of([math.fsum(map(float, each)) / len(each) for each in values])
        if spread is None or spread.n < len(values):
            continue
        ends = _interval(spread.mean, spread.half_width)
        headline = all(record.get("metric") == metric for each in known for record in each)
        if spread.n == 1 and headline and len(tasks) == 1:
            ends = _over_examples(cell, tasks[0], spread.mean)
        counts = {_examples(each) for each in known}
        examples = counts.pop() if len(counts) == 1 else None
        return _scaled(
            Measured(
                part,
                Shown(cell, column, tasks[0], metric, examples=examples),
                spread.mean,
                spread.sd,
                spread.n,
                *ends,
                examples=examples,
                tasks=tasks if headline and column.higher_is_better else (),
            )
        )
    return None


def _examples(records: Sequence[Mapping[str, Any]]) -> int | None:
    """Return how many examples were scored; None if a record does not say."""
    counts = [record.get("examples") for record in records]
    known = [n for n in counts if isinstance(n, int)]
    return sum(known) if len(known) == len(counts) else None


def _metric(record: Mapping[str, Any], metric: str) -> Any:
    if record.get("metric") == metric:
        return record.get("value")
    return (record.get("metrics") or {}).get(metric)


def _interval(mean: float, half: float | None) -> tuple[float | None, float | None, str]:
    return (None, None, "") if not half else (mean - half, mean + half, "new seeds")


def _over_examples(cell: Cell, task: str, mean: float) -> tuple[float | None, float | None, str]:
    """Return the interval of a single run from the stored standard error over examples; none if there is no error."""
    error = cell.ok_rows[0].get(f"score_{task}_standard_error")
    if not is_number(error) or not float(error):  # type: ignore[arg-type]
        return None, None, ""
    half = t_quantile(math.inf) * float(error)  # type: ignore[arg-type]
    return mean - half, mean + half, "new examples, these checkpoints (from the stored standard error)"


def _quantity(part: Part, cell: Cell, column: LayoutColumn) -> Measured | None:
    """Return the mean of a stored quantity over seeds; of a time, over those that had the machine to themselves."""
    frame = without_busy_times(cell.ok)
    for group in column.quantity:
        if not {*group} <= {*frame.columns}:
            continue
        known = frame[list(group)].dropna().astype(float)
        spread = spread_of(known.sum(axis=1).tolist())
        if spread is not None:
            shown = Shown(cell, column, None, None, group)
            ends = _interval(spread.mean, spread.half_width)
            return _scaled(Measured(part, shown, spread.mean, spread.sd, spread.n, *ends))
    return None


def _scaled(found: Measured) -> Measured:
    scale = found.shown.column.scale
    low, high = (None if end is None else end * scale for end in (found.low, found.high))
    return replace(
        found, value=found.value * scale, sd=None if found.sd is None else found.sd * scale, low=low, high=high
    )


def _marked(found: list[MeasuredRow], key: str) -> None:
    """Give a column intervals of the crossed model, and marks within each block of one folder and base model."""
    blocks: dict[tuple[Any, ...], list[int]] = {}
    for place, row in enumerate(found):
        one = row.values.get(key)
        if one and one.tasks:
            block = one.part.name, one.shown.cell.rows[0]["base"], row.task, one.tasks
            blocks.setdefault(block, []).append(place)
    for places in blocks.values():
        _mark(found, places, key)


def _mark(found: list[MeasuredRow], places: Iterable[int], key: str) -> None:
    rows_of = {}
    for place in places:
        one = found[place].values[key]
        stored = one.part.results.stored_outcomes(one.tasks).get(one.shown.cell.name)
        if isinstance(stored, Outcomes):
            rows_of[str(place)] = stored
    for place, estimate, mark, p in _judged(rows_of):
        row = found[place]
        one = _with_estimate(row.values[key], estimate)
        found[place] = replace(row, values={**row.values, key: replace(one, mark=mark, adjusted_p=p)})


def _with_estimate(one: Measured, estimate: Estimate) -> Measured:
    scale = one.shown.column.scale
    return replace(one, low=estimate.low * scale, high=estimate.high * scale, over=estimate.scope)


def _judged(cells: Mapping[str, Outcomes]) -> Iterator[tuple[int, Estimate, Mark, float | None]]:
    """Yield the place of each cell with its estimate, its mark, and its adjusted p against the best."""
    if len(cells) < 2:
        for name, one in cells.items():
            yield int(name), score(one), "", None
        return
    ranking = rank(cells)
    against = {found.cell: found for found in ranking.with_best}
    alone = ranking.significantly_best
    rest = {name: one for name, one in cells.items() if name != ranking.best}
    second = rank(rest).significantly_best if alone and len(rest) > 1 else None
    for name, estimate in ranking.scores.items():
        compared = against.get(name)
        worse = compared is not None and compared.significant and compared.estimate.scope == MEANT
        mark: Mark = "best" if name == alone else "second" if name == second else "worse" if worse else ""
        yield int(name), estimate, mark, None if compared is None else compared.adjusted_p


def _averaged(found: Sequence[MeasuredRow], layout: Layout) -> list[MeasuredRow]:
    """Return the rows with the columns that are means of others, where these are all known."""
    rows_now = list(found)
    for column in (column for column in layout.columns if column.mean_of):
        for place, row in enumerate(rows_now):
            each = [row.values[key] for key in column.mean_of if key in row.values]
            if len(each) == len(column.mean_of):
                rows_now[place] = replace(row, values={**row.values, column.key: _mean(column, each)})
        _marked(rows_now, column.key)
    return rows_now


def _mean(column: LayoutColumn, each: Sequence[Measured]) -> Measured:
    value = math.fsum(one.value for one in each) / len(each)
    one_cell = len({id(one.shown.cell) for one in each}) == 1 and all(one.tasks for one in each)
    seeds = min(one.seeds for one in each)
    sd = None
    if one_cell and seeds > 1:
        by_seed = [
            statistics.fmean(float(row[f"score_{one.shown.task}"]) for one in each)
            for row in each[0].shown.cell.ok_rows
        ]
        sd = statistics.stdev(by_seed) * column.scale
    tasks = tuple(task for one in each for task in one.tasks) if one_cell else ()
    return Measured(each[0].part, Shown(each[0].shown.cell, column, None, None), value, sd, seeds, tasks=tasks)
