"""What must be said under the table of a grid whose learning rates were searched for."""

from __future__ import annotations

from collections.abc import Iterable

from peftbench.methods.record import shown
from peftbench.report.collect import Cell, Results
from peftbench.results.learning_rate_search import CellSearch


def searched(results: Results) -> list[tuple[Cell, CellSearch]]:
    """Return the cells whose learning rate was searched, each with its search, in the order of the comparison."""
    return [(c, results.choices[c.summary.cell]) for c in results.cells if c.summary.cell in results.choices]


def notes(results: Results) -> Iterable[str]:
    """Yield what must be said under the table of a grid whose learning rates were searched."""
    found = searched(results)
    if not found:
        return
    counts = sorted({len(choice.candidates) for _, choice in found})
    seeds = sorted({seed for _, choice in found for seed in choice.seeds})
    trials = sum(candidate.trials for _, choice in found for candidate in choice.candidates)
    chosen = all(choice.best and _is_chosen(cell, choice) for cell, choice in found)
    told = "; the test split was read for the chosen ones only" if chosen and not results.left_out else ""
    tasks = found[0][1].tasks
    on = "" if set(tasks) == set(results.tasks) else f" of {', '.join(tasks)}"
    yield (
        f"Learning rates were chosen on the validation split{on} from {' or '.join(map(str, counts))} candidates for "
        f"each cell (seed {', '.join(map(str, seeds))}; {trials} trials before these){told}."
    )
    untold = [cell.name for cell, choice in found if choice.best is None]
    if untold:
        yield f"No candidate ended ok, so that the smallest learning rate was taken: {', '.join(untold)}."
    given = [cell.name for cell in results.tuned if cell.summary.cell not in results.choices]
    if given:
        yield f"Not searched, their learning rate was given: {', '.join(given)}."
    edges = [f"{cell.name} ({shown(c.best.rate)}, the {c.edge})" for cell, c in found if c.best and c.edge]
    if edges:
        yield f"The best learning rate is at the edge of those tried, a better one may lie beyond: {'; '.join(edges)}."
    alike = [cell.name for cell, choice in found if choice.undecided]
    if alike:
        yield f"All candidates scored alike, so that the search chose nothing, and the smallest: {', '.join(alike)}."
    failed = [
        f"{cell.name} at {shown(candidate.rate)} ({', '.join(dict.fromkeys(candidate.failures))})"
        for cell, choice in found
        for candidate in choice.candidates
        if candidate.failures
    ]
    if failed:
        yield f"Candidates that did not end ok and were not chosen: {'; '.join(failed)}."
    older = [cell.name for cell, choice in found if not _is_chosen(cell, choice)]
    if older:
        yield f"Trained with another learning rate than the search chooses now: {', '.join(older)}."


def _is_chosen(cell: Cell, choice: CellSearch) -> bool:
    known = set(cell.ok["learning_rate"].dropna())
    return choice.best is None or known <= {choice.best.rate}
