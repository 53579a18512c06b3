"""Notes on learning rates that were searched for on the validation split."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from peftbench.methods.record import shown
from peftbench.report.collect import Cell, Results
from peftbench.results.learning_rate_search import CellSearch
from peftbench.results.rows import is_number

SELECTED = "*"
"""Marks the selected candidate."""
EXPECTED_BEST = (
    "Expected best so far: expected best validation score after that many trials, with candidates in random order and "
    "without replacement (arXiv:2004.13705). A failed candidate counts as the worst of the others."
)
"""Explains the page's figure of score against the number of trials."""


def notes(results: Results) -> Iterable[str]:
    """Yield how rates were selected, then the cells whose selection is doubtful; none if nothing was searched."""
    found = results.searched
    if not found:
        return
    yield _selection(results, found)
    default = [cell.name for cell, choice in found if choice.best is None]
    if default:
        yield f"No candidate ended ok, so the smallest learning rate was used: {', '.join(default)}."
    given = [cell.name for cell in results.tuned if cell.summary.cell not in results.choices]
    if given:
        yield f"Learning rate given by the suite, not searched: {', '.join(given)}."
    edges = [f"{cell.name} ({shown(c.best.rate)}, the {c.edge})" for cell, c in found if c.best and c.edge]
    if edges:
        yield f"Best learning rate at the edge of the candidates; a better one may lie outside: {'; '.join(edges)}."
    alike = [cell.name for cell, choice in found if choice.undecided]
    if alike:
        yield f"All candidates scored the same, so the smallest learning rate was used: {', '.join(alike)}."
    failed = [
        f"{cell.name} at {shown(candidate.rate)} ({', '.join(dict.fromkeys(candidate.failures))})"
        for cell, choice in found
        for candidate in choice.candidates
        if candidate.failures
    ]
    if failed:
        yield f"Candidates that failed and were not selected: {'; '.join(failed)}."
    older = [cell.name for cell, choice in found if not _uses_selected(cell, choice)]
    if older:
        yield f"Trained with a learning rate other than the one selected now: {', '.join(older)}."


def _selection(results: Results, found: Sequence[tuple[Cell, CellSearch]]) -> str:
    counts = sorted({len(choice.candidates) for _, choice in found})
    seeds = sorted({seed for _, choice in found for seed in choice.seeds})
    trials = sum(candidate.trials for _, choice in found for candidate in choice.candidates)
    selected = all(choice.best and _uses_selected(cell, choice) for cell, choice in found)
    test = "; the test split was used only with the selected rates" if selected and not results.left_out else ""
    tasks = found[0][1].tasks
    on = "" if set(tasks) == set(results.tasks) else f" of {', '.join(tasks)}"
    return (
        f"Learning rates were selected on the validation split{on} from {' or '.join(map(str, counts))} candidates per "
        f"cell (seed {', '.join(map(str, seeds))}; {trials} trials before these){test}."
    )


def _uses_selected(cell: Cell, choice: CellSearch) -> bool:
    known = {row["learning_rate"] for row in cell.ok_rows if is_number(row["learning_rate"])}
    return choice.best is None or known <= {choice.best.rate}


def candidates(results: Results, found: Sequence[tuple[Cell, CellSearch]]) -> str:
    """Return the note under the table of candidates."""
    steps = sorted({choice.steps for _, choice in found if choice.steps})
    final = results.distinct("steps_done")
    length = f"trained for {_or(steps)} optimizer steps" if steps else "have no finished trial"
    grid = f" (trials of the grid: {_or(final)})" if final else ""
    return (
        f"Mean validation score over tasks. Candidates {'were ' if steps else ''}{length}{grid}. "
        f"{SELECTED}: selected, the smallest rate among equal scores."
    )


def _or(numbers: Sequence[float]) -> str:
    return " or ".join(f"{n:,}" for n in numbers)
