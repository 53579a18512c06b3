"""Text above the tables of rank against precision."""

from __future__ import annotations

from peftbench.records.wording import plural
from peftbench.report.collect import Results
from peftbench.report.derived.significance import significance

MEANING = (
    "Rows: the rank r, whose meaning depends on the method (given beside its name). Columns: precision. Equal ranks of "
    "two methods are not equal budgets; compare trainable parameters below. An empty entry is a cell that the suite "
    "does not have."
)
"""Explains rows, columns and empty entries."""


def heading(results: Results, usual: int) -> str:
    """Return what the entries are: means with which interval, over how many seeds.

    Args:
        results: what is reported.
        usual: number of finished seeds that most tuned cells have; 0 if none has any.
    """
    counts = {len(cell.ok) for cell in results.tuned}
    if not usual:
        return "No tuned cell has a finished trial."
    if counts == {1}:
        return "Means of one seed per cell, so there is no interval."
    text = f"Mean ± half width of the 95 % t-interval over n = {plural(usual, 'seed')}"
    if len(counts) > 1:
        text += f" unless an entry gives another n{'; one seed has no interval' if 1 in counts else ''}"
    if significance(results).rankings:
        text = f"Scores: mean and 95 % interval for new seeds and new examples. Costs: {text[0].lower()}{text[1:]}"
    per_seed = " The mean over tasks is taken per seed, then like every score." if len(results.tasks) > 1 else ""
    return f"{text}.{per_seed} Bytes without ± are the same for every seed."
