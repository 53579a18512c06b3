"""The learning-rate search: candidates, selected rate and cost."""

from __future__ import annotations

from collections.abc import Sequence

from peftbench.methods.record import shown
from peftbench.records import units as fmt
from peftbench.report.collect import Cell, Results
from peftbench.report.notes import learning_rate_search as notes
from peftbench.report.tables.table import Column, Row, Table, Value
from peftbench.results.learning_rate_search import Candidate, CellSearch

_REFERENCE = "full"
"""The method whose learning rate the others are compared with."""


def table(results: Results) -> Table | None:
    """Return a row per searched cell, with every candidate's validation score; None if nothing was searched."""
    found = results.searched
    if not found:
        return None
    columns = (
        Column("cell", "", ("cell",), "cell", numeric=False),
        Column("selected rate", "", ("learning_rate",), "rate"),
        Column(f"× that of {_REFERENCE}", "", ("learning_rate_to_full",), f"x {_REFERENCE}"),
        Column("validation score", "%", ("validation_score",), "validation\n%"),
        Column("candidates and their scores", "%", ("candidates",), "tried: %", numeric=False),
        Column("trials", "", ("trials",), "trials"),
        Column("time", "s", ("wall_seconds",), "time\ns"),
    )
    rows = tuple(Row(_values(cell, choice, _reference(found, cell)), cell) for cell, choice in found)
    return Table(columns, rows, (notes.candidates(results, found),))


def _reference(found: Sequence[tuple[Cell, CellSearch]], cell: Cell) -> float | None:
    """Return the selected rate of the reference method at the cell's precision, else at its first one."""
    known = {c.precision: choice.best.rate for c, choice in found if c.method == _REFERENCE and choice.best}
    return known.get(cell.precision, next(iter(known.values()), None))


def _values(cell: Cell, choice: CellSearch, reference: float | None) -> tuple[Value, ...]:
    best = choice.best
    rate = best.rate if best else None
    ratio = rate / reference if rate and reference else None
    score = best.score if best else None
    trials = sum(candidate.trials for candidate in choice.candidates)
    seconds = sum(candidate.wall_seconds for candidate in choice.candidates)
    tried = ", ".join(_candidate(candidate, candidate is best) for candidate in choice.candidates)
    return (
        Value(cell.name, (cell.name,)),
        Value(fmt.MISSING if rate is None else shown(rate), (rate,)),
        Value(fmt.number(ratio), (ratio,)),
        Value(fmt.spread(score, None, 100), (score,)),
        Value(tried, (tried,)),
        Value(str(trials), (trials,)),
        Value(fmt.number(seconds), (seconds,)),
    )


def _candidate(candidate: Candidate, chosen: bool) -> str:
    """Return "0.003: 63.5*"."""
    score = fmt.MISSING if candidate.score is None else f"{100 * candidate.score:.1f}"
    return f"{shown(candidate.rate)}: {score}{notes.SELECTED * chosen}"
