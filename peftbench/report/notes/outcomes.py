"""Notes on cells that ended ok but learned nothing or fell below the untuned base model, with the likely cause."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from peftbench.methods.record import shown
from peftbench.records.wording import abridged, plural, series
from peftbench.report.collect import Cell, Results, read_json
from peftbench.results.rows import is_number, rows_without_progress

_SMALL_FALL = 0.1
"""Relative fall of the training loss below which a cell has hardly learned."""
_FEW_STEPS = 100
_MANY_PASSES = 3.0
_MUCH_TRUNCATED = 0.05
"""Share of the training examples."""
_FORGOTTEN = 0.1
"""Relative rise of the loss on general text."""
_MOST = 8
"""Cells that are named before the others are only counted."""
_LOWER_IS_BETTER = ("bits_per_byte", "perplexity")


def unlearned(results: Results) -> Iterable[str]:
    """Yield the cells with a trial that ended ok but whose training loss did not fall, and the likely cause."""
    rows = rows_without_progress(results.trials)
    if not len(rows):
        return
    columns = rows[["cell", "seed", "first_loss", "last_loss"]].itertuples(index=False)
    each = [f"{cell}, seed {seed} ({first:.3g} to {last:.3g})" for cell, seed, first, last in columns]
    yield f"Training did not lower the loss (first step to the mean of the last tenth): {'; '.join(each)}."
    causes: dict[str, list[str]] = {}
    for row in rows.to_dict("records"):
        causes.setdefault(_no_fall(row), []).append(str(row["cell"]))
    for cause, cells in causes.items():
        yield f"Likely cause of that for {series(tuple(dict.fromkeys(cells)))}: {cause}."


def below_base(results: Results) -> Iterable[str]:
    """Yield the cells that score below the untuned base model, by task and likely cause."""
    groups: dict[tuple[str, str], list[str]] = {}
    for each in _below(results):
        text = f"{each.cell.name} ({100 * each.tuned:.1f}, the base {100 * each.untuned:.1f})"
        groups.setdefault((each.task, _cause(results, each)), []).append(text)
    for (task, cause), cells in groups.items():
        yield f"Below the untuned base model on {task}: {abridged(cells, _MOST)}. Likely cause: {cause}."


def harmed(results: Results) -> tuple[str, ...]:
    """Return the names of the cells that score below the untuned base model on a task by more than noise."""
    return tuple(dict.fromkeys(each.cell.name for each in _below(results) if not _within_noise(each)))


class _Below(NamedTuple):
    """A cell that scores below the untuned base model on a task; scores as fractions of 1."""

    cell: Cell
    task: str
    tuned: float
    untuned: float


def _below(results: Results) -> Iterator[_Below]:
    for task in results.tasks:
        if results.score_record(task).get("metric") in _LOWER_IS_BETTER:
            continue
        for cell in results.tuned:
            base = _base(results, cell)
            untuned, tuned = base.mean(f"score_{task}") if base else None, cell.mean(f"score_{task}")
            if untuned is not None and tuned is not None and tuned < untuned:
                yield _Below(cell, task, tuned, untuned)


def _within_noise(each: _Below) -> bool:
    """Return whether the difference is less than twice the standard error over the examples."""
    error = each.cell.mean(f"score_{each.task}_standard_error")
    return bool(error) and each.untuned - each.tuned < 2 * (error or 0.0)


def _base(results: Results, cell: Cell) -> Cell | None:
    """Return the untuned base model of a cell, at its precision if there is one."""
    if "untuned" not in results.memo:
        results.memo["untuned"] = [each for each in results.finished if each.is_base]
    known = [each for each in results.memo["untuned"] if each.summary.base == cell.summary.base]
    return next((each for each in known if each.precision == cell.precision), known[0] if known else None)


def _cause(results: Results, each: _Below) -> str:
    """Return why a cell probably scores below the untuned base model: the first known reason that applies."""
    rows, task = each.cell.ok_rows, each.task
    if _within_noise(each):
        examples = results.score_record(task).get("examples")
        return f"chance, since the difference is within the noise of {plural(int(examples or 0), 'example')}"
    stalled = [row for row in rows if (fall := _fall(row)) is not None and fall <= 0]
    if stalled:
        return _no_fall(stalled[0])
    seen = [read_json(row.get("data_seen_json")) for row in rows]
    if any(seen) and not any(task in one for one in seen):
        return "the cell was trained on other tasks only"
    drawn, distinct, truncated = (
        sum(one.get(name, 0) for each_set in seen for one in each_set.values()) for name in _COUNTS
    )
    if drawn and truncated > _MUCH_TRUNCATED * drawn:
        return f"training examples that are truncated ({100 * truncated / drawn:.0f} % of them)"
    falls = [fall for row in rows if (fall := _fall(row)) is not None]
    if falls and max(falls) < _SMALL_FALL:
        return _too_little(rows[0])
    forgotten = max((more for row in rows if (more := _forgotten(row)) is not None), default=0.0)
    if forgotten > _FORGOTTEN:
        rise = f"the loss on general text rose by {100 * forgotten:.0f} %"
        return f"a learning rate that is too high ({_rate(rows[0])}): {rise}"
    if distinct and drawn > _MANY_PASSES * distinct:
        return f"overfitting, in {drawn / distinct:.1f} passes over the training examples"
    small = "" if each.cell.rank is None else f" or a rank that is too small ({each.cell.rank})"
    return f"a learning rate that is too high ({_rate(rows[0])}){small}, or training examples unlike the scored ones"


_COUNTS = ("drawn", "distinct", "truncated")


def _fall(row: Mapping[str, Any]) -> float | None:
    """Return the relative fall of the training loss; None if it is not known."""
    first, last = _known(row, "first_loss"), _known(row, "last_loss")
    return 1 - last / first if first and last is not None else None


def _forgotten(row: Mapping[str, Any]) -> float | None:
    """Return the relative rise of the loss on general text; None if it is not known."""
    before, after = _known(row, "retention_loss_before"), _known(row, "retention_loss_after")
    return after / before - 1 if before and after is not None else None


def _no_fall(row: Mapping[str, Any]) -> str:
    """Return why a loss probably did not fall: it rose, or it hardly moved."""
    fall = _fall(row)
    if fall is not None and fall < -_SMALL_FALL:
        return f"a learning rate that is too high ({_rate(row)}), as the loss rose by {-100 * fall:.0f} %"
    return _too_little(row)


def _too_little(row: Mapping[str, Any]) -> str:
    steps = _known(row, "steps_done")
    few = steps is not None and steps < _FEW_STEPS
    return f"too few steps ({steps:,.0f})" if few else f"a learning rate that is too low ({_rate(row)})"


def _rate(row: Mapping[str, Any]) -> str:
    rate = _known(row, "learning_rate")
    return "unknown" if rate is None else shown(rate)


def _known(row: Mapping[str, Any], name: str) -> float | None:
    value: Any = row.get(name)
    return float(value) if is_number(value) else None
