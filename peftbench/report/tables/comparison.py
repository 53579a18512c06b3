"""The comparison table: a row per cell with its scores and costs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from peftbench.records import units as fmt
from peftbench.report.collect import MEAN, Cell, Results
from peftbench.report.derived.answer import Nearness, nearness
from peftbench.report.derived.significance import COSTS, Significance, significance
from peftbench.report.not_run import NotRun, not_run
from peftbench.report.notes import comparison as notes
from peftbench.report.notes.significance import GOOD
from peftbench.report.tables.heads import heads_of
from peftbench.report.tables.table import Column, Row, Table, Value
from peftbench.results.busy_machine import is_time


@dataclass(frozen=True)
class _Quantity:
    """A stored column that the table shows as a mean over seeds."""

    column: str
    title: str
    short: str | None = None
    unit: str = ""
    """Empty for bytes, whose unit depends on the column's values."""
    digits: int | None = None
    """Decimals of mean and spread over seeds (the terminal's table has the spread in % of the mean); None for three
    significant digits and no spread."""
    optional: bool = False
    """Whether the table has it only if any cell has a value."""

    def shown(self, results: Results) -> bool:
        """Return whether the table has it: of imported results, only what they know."""
        always = not self.optional and not results.imported
        return always or any(cell.mean(self.column) is not None for cell in results.cells)

    def build(self, cells: tuple[Cell, ...]) -> tuple[Column, Callable[[Cell], Value]]:
        """Return the column and the function that fills it."""
        unit = fmt.Unit(self.unit, 1.0) if self.unit else fmt.byte_unit(cell.mean(self.column) for cell in cells)
        short = f"{self.short}\n{unit.name}" if self.short else None
        column = Column(self.title, unit.name, (f"{self.column}_mean", f"{self.column}_sd"), short)

        def fill(cell: Cell) -> Value:
            mean, sd = cell.mean(self.column), cell.sd(self.column)
            plain = fmt.number(None if mean is None else mean / unit.size)
            if self.digits is not None and mean and sd is not None:
                plain += f"±{100 * sd / mean:.0f}%"
            text = plain if self.digits is None else fmt.spread(mean, sd, 1 / unit.size, self.digits)
            spread = cell.summary.spreads.get(self.column)
            if spread and spread.n < len(cell.ok) and is_time(self.column):
                text += f" (n={spread.n})"  # the others were measured on a busy machine
            return Value(text, (mean, sd), plain)

        return column, fill


_QUANTITIES = (
    _Quantity("base_weights_bytes", "base weights", "base"),
    _Quantity("peak_train_bytes", "peak train memory", "peak"),
    _Quantity("peak_run_reserved_bytes", "memory reserved, whole run", "reserved", optional=True),
    _Quantity("peak_evaluate_bytes", "peak evaluate memory"),
    _Quantity("train_seconds", "train time", "train", "s", 1),
    _Quantity("not_training_seconds", "counted as training, but no steps", None, "s", 0, optional=True),
    _Quantity("tokens_per_second", "throughput", "speed", "tokens/s", 0),
    _Quantity("checkpoint_bytes", "checkpoint", "saved"),
)


def table(results: Results) -> Table:
    """Return the comparison table with its notes: a row per cell, then the rows of chance and majority.

    Scores are means over finished seeds with their standard deviation, none for a single seed. If the outcomes of all
    examples are stored, the interval for new seeds and new examples follows, and a column has the probability that a
    cell lies within 2 points of the best, with a mark where that is known.
    """
    known = significance(results)
    return replace(without_notes(results, known), notes=notes.notes(results, known))


def without_notes(results: Results, known: Significance) -> Table:
    """Return the columns and rows of the comparison table."""
    heads = heads_of(results.tasks)
    pairs = [_cell_column(), *(_score_column(task, known, heads[task]) for task in results.tasks)]
    if len(results.tasks) > 1:
        pairs.append(_score_column(MEAN, known, "mean\n%"))
    near = nearness(results)
    pairs += [
        *([_nearness_column(near)] if near and near.probabilities else []),
        _parameters_column(),
        *(quantity.build(results.cells) for quantity in _QUANTITIES if quantity.shown(results)),
    ]
    pairs += [*([_front_column(known)] if known.fronts else []), _n_column()]
    rows = [Row(tuple(fill(cell) for _, fill in pairs), cell, cell.trouble) for cell in results.cells]
    columns = tuple(column for column, _ in pairs)
    rows += [_not_run_row(columns, cell) for cell in not_run(results).values()]
    references = [_reference_row(results, columns, kind) for kind in ("majority", "chance")]
    return Table(columns, tuple(rows + [row for row in references if row]), ())


def _cell_column() -> tuple[Column, Callable[[Cell], Value]]:
    column = Column("cell", "", ("cell", "method", "precision", "rank"), "cell", numeric=False)
    return column, lambda cell: Value(cell.name, (cell.name, cell.method, cell.precision, cell.rank))


def _score_column(task: str, known: Significance, head: str) -> tuple[Column, Callable[[Cell], Value]]:
    name = f"score_{task}"
    stem = "score_mean_over_tasks" if task == MEAN else name
    raw = tuple(f"{stem}_{kind}" for kind in ("mean", "sd", *(("low", "high") if task in known.rankings else ())))
    column = Column(MEAN if task == MEAN else task, "%", raw, head)

    def fill(cell: Cell) -> Value:
        mean, sd = cell.mean(name), cell.sd(name)
        text, found = fmt.spread(mean, sd, 100), known.estimate(task, cell)
        # without spaces, so that all columns fit a terminal's line
        short = fmt.spread(mean, None, 100) if task == MEAN else text.replace(" ± ", "±")
        if found is None:
            return Value(text, (mean, sd), short)
        interval = f" [{100 * found.low:.1f}, {100 * found.high:.1f}]"
        return Value(text + interval, (mean, sd, found.low, found.high), short)

    return column, fill


def _nearness_column(near: Nearness) -> tuple[Column, Callable[[Cell], Value]]:
    within = f"{near.within:g}"
    raw = (f"probability_within_{within}_points", f"good_enough_within_{within}_points")
    column = Column(f"P(within {within})", "%", raw, f"P({within})\n%")

    def fill(cell: Cell) -> Value:
        share = near.probabilities.get(cell.name)
        if share is None:
            return Value(fmt.MISSING, (None, None))
        good = cell.name in near.good
        text = fmt.chance(share)
        return Value(f"{text} {GOOD}" if good else text, (share, good), f"{text}{GOOD}" if good else text)

    return column, fill


def _parameters_column() -> tuple[Column, Callable[[Cell], Value]]:
    column = Column(
        "trainable parameters", "count, % of base", ("trainable_parameters", "trainable_fraction_of_base"), "params\n"
    )

    def fill(cell: Cell) -> Value:
        trainable, base = cell.mean("trainable_parameters"), cell.mean("base_parameters")
        fraction = trainable / base if trainable is not None and base else None
        text = fmt.count(trainable) + (f" ({fmt.share(fraction)})" if fraction else "")
        return Value(text, (trainable, fraction), fmt.count(trainable, significant=True))

    return column, fill


def _front_column(known: Significance) -> tuple[Column, Callable[[Cell], Value]]:
    names = [name for name in COSTS.values() if name in known.fronts]
    raw = tuple(f"on_front_by_{name}" for name in names)
    column = Column("on the front", f"%, by {' / '.join(names)}", raw)

    def fill(cell: Cell) -> Value:
        found = tuple(known.fronts[name].get(cell.name) for name in names)
        text = " / ".join(fmt.MISSING if share is None else f"{100 * share:.0f}" for share in found)
        return Value(text, found)

    return column, fill


def _n_column() -> tuple[Column, Callable[[Cell], Value]]:
    column = Column("n", "seeds", ("seeds_ok", "seeds_run", "not_ok"), "n\n")

    def fill(cell: Cell) -> Value:
        good, total = len(cell.ok), len(cell.trials)
        if cell.trouble == "unsupported":
            return Value("unsupported", (0, total, cell.trouble), "n/a")
        text = str(good) if good == total else f"{good} of {total} ({cell.trouble})"
        status = "" if good else f" {next(iter(cell.troubles), '')}"
        return Value(text, (good, total, cell.trouble), text if good == total else f"{good}/{total}{status}")

    return column, fill


def _not_run_row(columns: tuple[Column, ...], cell: NotRun) -> Row:
    values = [Value(cell.title, (cell.name, cell.method, cell.precision, cell.rank))]
    values += [Value(fmt.MISSING, (None,) * len(column.raw)) for column in columns[1:-1]]
    trials = Value(cell.state, (0, 0, "not run"), f"0/{cell.trials} not run")
    return Row((*values, trials), trouble="not run")


def _reference_row(results: Results, columns: tuple[Column, ...], kind: str) -> Row | None:
    """Return the row of ``chance`` or ``majority``; None if no task defines it."""
    values = [Value(kind, (kind, None, None, None))]
    known = False
    for column in columns[1:]:
        task = column.title if column.raw[0].startswith("score_") else None
        score = results.reference(kind, task) if task else None
        known = known or score is not None
        text = fmt.spread(score, None, 100) if task else ""
        values.append(Value(text, (score, *(None for _ in column.raw[1:]))))
    return Row(tuple(values)) if known else None
