"""The three one-line notes under the short table: what the scores are, what is significant, the main caution."""

from __future__ import annotations

from collections.abc import Iterable

from peftbench.records.wording import plural
from peftbench.report.collect import Results
from peftbench.report.derived.answer import nearness
from peftbench.report.derived.significance import Significance
from peftbench.report.derived.unequal_settings import audit
from peftbench.report.names import display_names, renamed
from peftbench.report.notes import failures, memory, outcomes, scores
from peftbench.results.busy_machine import waiting_share

WIDTH = 100
"""Longest line in characters."""


def notes(results: Results, found: Significance) -> tuple[str, ...]:
    """Return at most three notes of at most one line, with the cells' display names."""
    names = display_names(results.cells)
    each = (_scores(results), _significance(results, found), _caution(results))
    found_notes = (_longest(renamed(note, names) for note in notes) for notes in each)
    return tuple(note for note in found_notes if note)


def _longest(candidates: Iterable[str]) -> str:
    """Return the first candidate that fits a line, else the beginning of the last one; empty if there is none."""
    each = list(candidates)
    return next((note for note in each if len(note) <= WIDTH), f"{each[-1][: WIDTH - 3]}..." if each else "")


def _scores(results: Results) -> Iterable[str]:
    counts = sorted({len(cell.ok) for cell in results.tuned})
    if not counts:
        yield "No tuned cell has a finished trial."
        return
    over = "one seed per cell" if counts == [1] else f"mean ± SD over {counts[0] if len(counts) == 1 else 'n'} seeds"
    if not results.tasks:
        yield f"Nothing was scored; {over}." if counts == [1] else "Nothing was scored."
        return
    named = [(task, results.score_record(task).get("metric")) for task in results.tasks]
    metrics = ", ".join(f"{scores.metric_words(str(metric))} ({task})" for task, metric in named if metric)
    if metrics:
        yield f"Scores in %, {over}: {metrics}."
    yield f"Scores in %: {over}."


def _significance(results: Results, found: Significance) -> Iterable[str]:
    if not results.tasks:
        return
    if found.headline not in found.rankings:
        few = len(results.finished) < 2
        reason = "fewer than two cells with scores" if few else "not every cell has the outcomes of all its examples"
        if not few and found.headline not in found.untested:
            reason = "they could not be computed (see the full table)"
        yield f"No significance tests: {reason}."
        return
    best = [f"{each.significantly_best} ({task})" for task, each in found.rankings.items() if each.significantly_best]
    near = nearness(results)
    if not near or near.failure:
        yield f"Significantly best: {', '.join(best)}." if best else "No cell is significantly best."
        return
    within = f"{near.within:g}"
    meaning = f"P(within {within}): probability of lying within {within} points of the best"
    meaning += "; ✓: known to." if near.good else "; none is known to."
    if best:
        yield f"{meaning} Significantly best: {', '.join(best)}."
    elif found.sensitivity and not found.sensitivity.detectable < 1:
        yield f"{meaning} No difference, however large, could be told."
    yield meaning


def _caution(results: Results) -> Iterable[str]:
    """Yield the main caution: missing, failed or harmed cells, unequal settings; else what the costs are."""
    failed = sum(n for cell in results.cells for status, n in cell.troubles.items() if status != "unsupported")
    unequal = list(dict.fromkeys(group[0].kind for group in audit(results).groups))
    harmed = outcomes.harmed(results)
    rows = [row for cell in results.cells for row in cell.ok_rows]
    waiting = [share for row in rows if (share := waiting_share(row)) is not None]
    if results.missing:
        yield next(iter(failures.missing(results)))
    elif failed:
        yield f"{failed} of {plural(len(results.trials), 'trial')} did not end ok; n: finished of all seeds."
    elif harmed:
        yield f"Below the untuned base model on a task: {', '.join(harmed)} (see the full table)."
        yield f"{plural(len(harmed), 'cell')} below the untuned base model on a task (see the full table)."
    elif unequal:
        yield f"Not held equal, and not an axis of the grid: {', '.join(unequal)} (see the full table)."
        yield f"Not held equal: {', '.join(unequal)} (see the full table)."
    else:
        yield from _costs(results, waiting)


def _costs(results: Results, waiting: list[float]) -> Iterable[str]:
    kind, device, threads = (results.common(name) for name in ("memory_kind", "device", "threads"))
    known = {n for n in ("peak_train_bytes", "train_seconds") if any(c.mean(n) is not None for c in results.tuned)}
    if kind == memory.WHOLE_RUN:
        peak = "Memory: reserved by the allocator over the whole run. "
    elif "peak_train_bytes" in known:
        peak = f"Memory: training peak{f', {memory.kind_words(str(kind))}' if kind else ''}. "
    else:
        peak = "Memory: not known. "
    where = "GPU" if device == "cuda" else plural(int(threads), "CPU thread") if threads else "CPU"
    idle = f"; waiting for a CPU: at most {100 * max(waiting):.0f} %" if waiting else ""
    if "train_seconds" not in known:
        idle, where = "", "not known"
    yield f"{peak}Times: {where}{idle}."
    yield f"{peak}Times: {where}."
