"""The learning-rate search: candidates, selected rate and cost."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from peftbench.methods.record import shown
from peftbench.records import units as fmt
from peftbench.report.collect import Cell, Results
from peftbench.report.figures.axis import Axis
from peftbench.report.figures.draw import Point, scatter
from peftbench.report.figures.panels import Panel
from peftbench.report.notes import learning_rate_search as notes
from peftbench.report.tables.table import Column, Row, Table, Value
from peftbench.results.learning_rate_search import Candidate, CellSearch, expected_best

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


def panels(results: Results) -> tuple[Panel, ...]:
    """Return figures of validation score against learning rate, and of the expected best against the trials spent."""
    found = [(cell, choice) for cell, choice in results.searched if choice.scores]
    if not found:
        return ()
    rates = [candidate.rate for _, choice in found for candidate in choice.candidates]
    by_rate = [
        _point(cell, candidate.rate, candidate.score, candidate is not choice.best)
        for cell, choice in found
        for candidate in choice.candidates
        if candidate.score is not None
    ]
    spent = [
        _point(cell, (number + 1) * len(choice.seeds), score, number + 1 < len(choice.scores_with_failures))
        for cell, choice in found
        for number, score in enumerate(expected_best(choice.scores_with_failures))
    ]
    wanted = (
        ("Validation score against learning rate", by_rate, Axis.over("learning rate", rates, True, shown), "rate"),
        ("Expected best so far", spent, Axis.over("trials spent", [p.x for p in spent], False, _whole), "spent"),
    )
    return tuple(Panel(title, Markup(scatter(points, {}, axis, name, title))) for title, points, axis, name in wanted)


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
        Value(cell.name, (cell.name,), sort=cell.name),
        Value(fmt.MISSING if rate is None else shown(rate), (rate,), sort=rate),
        Value(fmt.number(ratio), (ratio,), sort=ratio),
        Value(fmt.spread(score, None, 100), (score,), sort=score),
        Value(tried, (tried,), sort=tried),
        Value(str(trials), (trials,), sort=trials),
        Value(fmt.number(seconds), (seconds,), sort=seconds),
    )


def _candidate(candidate: Candidate, chosen: bool) -> str:
    """Return "0.003: 63.5*"."""
    score = fmt.MISSING if candidate.score is None else f"{100 * candidate.score:.1f}"
    return f"{shown(candidate.rate)}: {score}{notes.SELECTED * chosen}"


def _point(cell: Cell, x: float, score: float, faint: bool) -> Point:
    return Point(cell.name, cell.kind, cell.mean("base_bits_per_weight"), x, 100 * score, None, cell.name, "", faint)


def _whole(value: float) -> str:
    return f"{value:g}"
