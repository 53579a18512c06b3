"""What the standard errors of scores tell where the outcomes of single examples are not stored."""

from __future__ import annotations

from collections.abc import Iterable

from peftbench.records.wording import abridged, plural
from peftbench.report.collect import Cell, Results
from peftbench.results.unpaired import AgainstBest, Sampled, against_best

_MOST_NAMED = 6


def notes(results: Results) -> Iterable[str]:
    """Yield, for each task of imported results without outcomes, which cells cannot be told from the best."""
    for task in results.tasks:
        best = found(results, task)
        if best is None:
            continue
        others = f"of {plural(len(results.tuned) - 1, 'other cell')}"
        alike = f"{len(best.like_best)} {others} cannot be told from the best, {best.best}"
        which = f": {abridged(list(best.like_best), _MOST_NAMED)}" if best.like_best else ""
        yield (
            f"By the standard errors of {task} over its examples alone (unpaired z tests, Holm-adjusted p ≥ 0.05; "
            f"variation between runs is not in them), {alike}{which}. The difference of the two highest is known to "
            f"± {100 * best.half_width:.1f} points (95 %)."
        )


def found(results: Results, task: str) -> AgainstBest | None:
    """Compare imported cells by their standard errors; None if they have outcomes, several seeds, or no errors."""
    if not results.imported or len(results.tuned) < 2 or results.outcomes((task,)):
        return None
    if any(len(cell.ok) != 1 for cell in results.tuned):
        return None
    known = dict(_known(results.tuned, task))
    return against_best(known) if len(known) == len(results.tuned) else None


def _known(cells: Iterable[Cell], task: str) -> Iterable[tuple[str, Sampled]]:
    """Yield the cells with a score and its standard error; each has one finished trial."""
    for cell in cells:
        score, error = cell.mean(f"score_{task}"), cell.mean(f"score_{task}_standard_error")
        if score is not None and error is not None:
            yield cell.name, Sampled(score, error)
