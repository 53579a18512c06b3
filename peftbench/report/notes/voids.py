"""What makes numbers of a table void, in one line each: a busy machine, scores of guessing, a search at its edge."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

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
_FLOOR = "0"
"""What scores are compared with where neither chance nor majority is known."""


def warnings(results: Results) -> tuple[str, ...]:
    """Return one line for each thing that makes numbers of the table void; none if nothing does."""
    names = display_names(results.cells)
    found = (*_smoke(results), *_busy(results), *_guessing(results, names), *_edges(results, names))
    return tuple(f"{_HEAD}{line}"[:WIDTH] for line in found)


def at_the_floor(results: Results) -> tuple[str, ...]:
    """Return one line for each task on which every tuned cell scores 0, the lowest possible score."""
    found = []
    for task in results.tasks:
        scores = [cell.mean(f"score_{task}") for cell in results.tuned]
        lower = results.score_record(task).get("metric") in _LOWER_IS_BETTER
        if scores and not lower and all(score == 0 for score in scores):
            found.append(f"{_HEAD}{_nothing(task)}"[:WIDTH])
    return tuple(found)


def _nothing(task: str) -> str:
    """Return that nothing was learned on a task, with advice where the line has room for it."""
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
            f"busy machine: no time of {found.count} of {plural(found.known, 'trial')} can be trusted "
            f"({busy.why(found, f'up to {100 * found.largest_share:.0f} % waiting', 'GPU shared')})."
        )


def _guessing(results: Results, names: Mapping[str, str]) -> Iterator[str]:
    """Yield the tasks on which cells score no better than without reading the question."""
    for task in results.tasks:
        known = [
            (level, kind) for kind in ("majority", "chance") if (level := results.reference(kind, task)) is not None
        ]
        if results.score_record(task).get("metric") in _LOWER_IS_BETTER:
            continue
        level, kind = max(known, default=(0.0, _FLOOR))
        scored = [(score, names[c.name]) for c in results.tuned if (score := c.mean(f"score_{task}")) is not None]
        low = sorted((score, name) for score, name in scored if score <= level)
        if low and len(low) == len(scored):
            best, name = low[-1]
            if kind == _FLOOR or best == level == 0:
                yield _nothing(task)
                continue
            yield f"{task}: no cell is above {kind} ({100 * level:.1f}); the best, {name}, has {100 * best:.1f}."
        elif low:
            each = [f"{name} ({100 * score:.1f})" for score, name in low]
            at = "the lowest possible score" if kind == _FLOOR else f"or below {kind} ({100 * level:.1f})"
            yield _fitting(f"{task}, at {at}", [name for _, name in low] if kind == _FLOOR else each)


def _edges(results: Results, names: Mapping[str, str]) -> Iterator[str]:
    each = [f"{names[cell.name]} ({shown(c.best.rate)})" for cell, c in results.searched if c.best and c.edge]
    if each:
        yield _fitting("best learning rate at the edge of the search, a better one may lie outside", each)


def _fitting(what: str, names: Sequence[str]) -> str:
    """Return a line about cells with as many names as fit, at least their number."""
    tried = [abridged(names, most) for most in range(min(_MOST, len(names)), 0, -1)]
    lines = [f"{what}: {some}." for some in (*tried, plural(len(names), "cell"))]
    return next((line for line in lines if len(line) <= WIDTH - len(_HEAD)), lines[-1])
