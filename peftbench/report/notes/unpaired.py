"""What the standard errors of scores tell where the outcomes of single examples are not stored."""

from __future__ import annotations

from collections.abc import Iterable

from peftbench.records.wording import abridged, plural
from peftbench.report.collect import Cell, Results
from peftbench.results.unpaired import Sampled, against_best

_MOST_NAMED = 6


def notes(results: Results) -> Iterable[str]:
    """Yield, for each task of imported results without outcomes, which cells cannot be told from the best."""
    if not results.imported:
        return
    for task in results.tasks:
        if results.outcomes((task,)) or len(results.tuned) < 2:
            continue
        if any(len(cell.ok) != 1 for cell in results.tuned):
            continue
        known = dict(_known(results.tuned, task))
        found = against_best(known)
        if found is None or len(known) < len(results.tuned):
            continue
        others = f"of {plural(len(known) - 1, 'other cell')}"
        alike = f"{len(found.like_best)} {others} cannot be told from the best, {found.best}"
        which = f": {abridged(list(found.like_best), _MOST_NAMED)}" if found.like_best else ""
        yield (
            f"By the standard errors of {task} over its examples alone (unpaired z tests, Holm-adjusted p ≥ 0.05; "
            f"variation between runs is not in them), {alike}{which}. The difference of the two highest is known to "
            f"± {100 * found.half_width:.1f} points (95 %)."
        )


def _known(cells: Iterable[Cell], task: str) -> Iterable[tuple[str, Sampled]]:
    """Yield the cells with a score and its standard error; each has one finished trial."""
    for cell in cells:
        score, error = cell.mean(f"score_{task}"), cell.mean(f"score_{task}_standard_error")
        if score is not None and error is not None:
            yield cell.name, Sampled(score, error)
