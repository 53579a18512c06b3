"""What makes numbers of a table void, in one line each: a busy machine, scores of guessing, a search at its edge."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from peftbench.methods.record import shown
from peftbench.records.wording import abridged, plural
from peftbench.report.collect import Results
from peftbench.report.derived.smoke import BASE, STEPS, is_smoke
from peftbench.report.names import display_names
from peftbench.report.notes import busy
from peftbench.results.busy_machine import busy_trials

WIDTH = 100
"""Longest line in characters."""
_LOWER_IS_BETTER = ("bits_per_byte", "perplexity")
_MOST = 4
"""Most cells that a line names."""
_HEAD = "Warning: "


def warnings(results: Results) -> tuple[str, ...]:
    """Return one line for each thing that makes numbers of the table void; none if nothing does."""
    names = display_names(results.cells)
    found = (*_smoke(results), *_busy(results), *_guessing(results, names, results.tasks), *_edges(results, names))
    return tuple(f"{_HEAD}{line}"[:WIDTH] for line in found)


def at_the_floor(results: Results) -> tuple[str, ...]:
    """Return one line for each task on which every tuned cell scores 0, the lowest possible score."""
    return tuple(f"{_HEAD}{_nothing(task, results)}"[:WIDTH] for task in _rising(results) if _all_zero(results, task))


def guessing(results: Results, tasks: Collection[str]) -> Iterator[str]:
    """Yield a line for each of some tasks on which cells score no better than without reading the question."""
    return _guessing(results, display_names(results.cells), tasks)


def _rising(results: Results) -> list[str]:
    """Return the tasks on which a higher score is better."""
    return [task for task in results.tasks if results.score_record(task).get("metric") not in _LOWER_IS_BETTER]


def _scores(results: Results, task: str) -> dict[str, float]:
    """Return the mean scores of the tuned cells that have one, by name."""
    return {cell.name: score for cell in results.tuned if (score := cell.mean(f"score_{task}")) is not None}


def _all_zero(results: Results, task: str) -> bool:
    scores = _scores(results, task).values()
    return bool(scores) and not any(scores)


def _nothing(task: str, results: Results) -> str:
    """Return that nothing was learned on a task, with advice where the line has room for it and it can be followed."""
    if results.imported:
        return f"{task}: every cell scores 0, so nothing is compared."
    found = f"{task}: every tuned cell scores 0, so nothing is compared"
    advised = f"{found}; more steps may change that."
    return advised if len(advised) <= WIDTH - len(_HEAD) else f"{found}."


def _smoke(results: Results) -> Iterator[str]:
    if is_smoke(results):
        yield f"smoke run: {STEPS} steps per cell on {BASE}, so no number of this table means anything."


def _busy(results: Results) -> Iterator[str]:
    found = busy_trials(results.trials)
    if found:
        yield (
            f"busy machine, the times of {found.count} of {plural(found.known, 'trial')} are unreliable "
            f"({busy.why(found, f'up to {100 * found.largest_share:.0f} % waiting for a CPU', 'GPU shared')})."
        )


def _guessing(results: Results, names: Mapping[str, str], tasks: Collection[str]) -> Iterator[str]:
    """Yield the tasks on which cells score no better than without reading the question."""
    for task in (task for task in _rising(results) if task in tasks):
        scored = _scores(results, task)
        levels = [
            (level, kind) for kind in ("majority", "chance") if (level := results.reference(kind, task)) is not None
        ]
        if _all_zero(results, task):
            yield _nothing(task, results)
        elif levels:
            level, kind = max(levels)
            low = sorted((score, names[cell]) for cell, score in scored.items() if score <= level)
            each = [f"{name} ({100 * score:.1f})" for score, name in low]
            if low and len(low) == len(scored):
                best, name = low[-1]
                top = f"the best, {name}, has {100 * best:.1f}"
                yield f"{task}: no cell is above {kind} ({100 * level:.1f}); {top}."
            elif low:
                yield _fitting(f"{task}, not above {kind} ({100 * level:.1f})", each)
        elif zero := sorted(names[cell] for cell, score in scored.items() if score == 0):
            yield _fitting(f"{task}, at the lowest possible score", zero)


def _edges(results: Results, names: Mapping[str, str]) -> Iterator[str]:
    each = [f"{names[cell.name]} ({shown(c.best.rate)})" for cell, c in results.searched if c.best and c.edge]
    if each:
        yield _fitting("best learning rate at the edge of the search, a better one may lie outside", each)


def _fitting(what: str, names: Sequence[str]) -> str:
    """Return a line about cells with as many names as fit, at least their number."""
    tried = [abridged(names, most) for most in range(min(_MOST, len(names)), 0, -1)]
    lines = [f"{what}: {some}." for some in (*tried, plural(len(names), "cell"))]
    return next((line for line in lines if len(line) <= WIDTH - len(_HEAD)), lines[-1])
