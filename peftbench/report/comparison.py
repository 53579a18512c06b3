"""A comparison of two results folders as text for a terminal."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

from peftbench.records.units import MISSING, memory
from peftbench.records.wording import plural
from peftbench.report import text_table
from peftbench.report.notes import busy
from peftbench.results.compare.comparison import MEASURED, CellChange, Change, Comparison
from peftbench.results.compare.differences import Difference
from peftbench.results.seeds import Spread, Summary

HEAD = ("cell", "column", "old", "new", "change", "")
RIGHT = (2, 3, 4)
"""Columns that are aligned on the right."""


def render(comparison: Comparison) -> str:
    """Return the comparison as text: equal cells are counted, every other cell has a line."""
    if comparison.unrelated:
        return _unrelated(comparison)
    rows = [row for cell in comparison.cells for row in _cell_rows(cell)]
    same = 0 if "score" in comparison.refused else sum(cell.same for cell in comparison.cells)
    blocks = [
        f"old: {comparison.old}\nnew: {comparison.new}",
        _aligned([HEAD, *rows]) if rows else "",
        _counted(same, len(comparison.cells)),
        _listed("only in old", comparison.only_old),
        _listed("only in new", comparison.only_new),
        _differences("settings", comparison.settings),
        _differences("environment", comparison.environment),
        _refused(comparison),
        _left_out(comparison),
        _busy(comparison),
        _verdict(comparison),
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _cell_rows(cell: CellChange) -> Iterable[tuple[str, ...]]:
    if cell.old.counts != cell.new.counts:
        note = "REGRESSED" if cell.broke else ""
        yield cell.cell, "status", _statuses(cell.old), _statuses(cell.new), "", note
        if cell.new.messages:
            yield cell.cell, "message", "", "", "", f"{cell.new.messages[0]}\n".splitlines()[0][:80]
    for change in cell.changes:
        if change.verdict != "same":
            yield cell.cell, change.column, *_numbers(change), ("REGRESSED, " * change.fell) + (change.verdict or "")


def _statuses(summary: Summary) -> str:
    """Return the number of seeds by status: "2 ok, 1 oom"."""
    return ", ".join(f"{count} {status}" for status, count in summary.counts.items())


def _numbers(change: Change) -> tuple[str, str, str]:
    difference = change.difference
    moved = MISSING if difference is None else _number(change.column, difference, sign="+")
    return _mean(change.column, change.old), _mean(change.column, change.new), moved


def _mean(column: str, spread: Spread | None) -> str:
    return MISSING if spread is None else f"{_number(column, spread.mean)} (n={spread.n})"


def _number(column: str, value: float, sign: str = "") -> str:
    """Format a number by the unit in its column's name."""
    if column.startswith("score_"):
        return f"{value:{sign}.4f}"
    if column.endswith("_bytes"):
        return ("+" if sign and value >= 0 else "") + memory(value, None)
    return f"{value:{sign},.0f}"


def _aligned(rows: Sequence[tuple[str, ...]]) -> str:
    """Return rows in columns; a cell's name is written once."""
    shown = [rows[0]]
    for before, row in itertools.pairwise(rows):
        shown.append(("" if row[0] == before[0] else row[0], *row[1:]))
    return "\n".join(text_table.lines(shown, text_table.Layout(RIGHT)))


def _counted(same: int, cells: int) -> str:
    return f"{same} of {cells} cells in both are the same" if cells else "no cell is in both"


def _listed(title: str, cells: tuple[str, ...]) -> str:
    return f"{title}: {', '.join(cells)}" if cells else ""


def _differences(title: str, changes: tuple[Difference, ...]) -> str:
    if not changes:
        return ""
    where = [f"  ({', '.join(change.cells)})" if change.cells else "" for change in changes]
    lines = [f"  {c.name}: {c.old} -> {c.new}{cells}" for c, cells in zip(changes, where, strict=True)]
    return "\n".join([f"{title} that changed:", *lines])


def _refused(comparison: Comparison) -> str:
    lines = [f"  {column}: {c.name} is {c.old} and {c.new}" for column, c in comparison.refused.items()]
    cells: dict[tuple[str, str, str], list[str]] = {}
    for cell in comparison.cells:
        if cell.refused is not None:
            cells.setdefault((cell.refused.name, cell.refused.old, cell.refused.new), []).append(cell.cell)
    lines += [f"  score of {', '.join(c)}: {n} is {a[:12]} and {b[:12]}" for (n, a, b), c in cells.items()]
    metrics: dict[tuple[str, str, str], list[str]] = {}
    for cell in comparison.cells:
        for each in cell.metrics:
            metrics.setdefault((each.name, each.old, each.new), []).append(cell.cell)
    lines += [f"  score_{task} of {', '.join(c)}: the metric is {a} and {b}" for (task, a, b), c in metrics.items()]
    return "\n".join(["not compared, because the values that must be equal differ:", *lines]) if lines else ""


def _left_out(comparison: Comparison) -> str:
    excluded = [
        f"{side}: {plural(n, 'stored row')} not of the grid that was last run, or older: excluded"
        for side, n in zip(("old", "new"), comparison.excluded, strict=True)
        if n
    ]
    return "\n".join(excluded)


def _unrelated(comparison: Comparison) -> str:
    """Return two lines that name what the folders are results of."""
    old, new = (
        f"{name} is suite {', '.join(content.suites)} on {', '.join(content.bases)}"
        for name, content in zip((comparison.old, comparison.new), comparison.contents, strict=True)
    )
    return f"no verdict: no cell is in both folders, so nothing can be compared\n{old}; {new}\n"


def _busy(comparison: Comparison) -> str:
    return "\n".join(
        f"{side}: {busy.sentence(found)}"
        for side, found in zip(("old", "new"), comparison.busy, strict=True)
        if found is not None
    )


def _verdict(comparison: Comparison) -> str:
    if comparison.verdict is None:
        return "no verdict: no score could be compared"
    bad = [cell.cell for cell in comparison.cells if cell.broke or any(change.fell for change in cell.changes)]
    verdict = f"regressed: {', '.join(bad)}" if bad else "no regression: no score fell beyond noise"
    moved = [f"{column} {_moved(comparison, column)}" for column in MEASURED]
    return f"{verdict}\nmemory and time are not judged: {', '.join(moved)}"


def _moved(comparison: Comparison, column: str) -> str:
    """Return by how much a column moved over all cells, in percent of what it was."""
    changes = [change for cell in comparison.cells for change in cell.changes if change.column == column]
    ratios = [100 * (c.difference or 0.0) / c.old.mean for c in changes if c.new is not None and c.old and c.old.mean]
    if not ratios:
        return "was not compared"
    ends = list(dict.fromkeys(f"{ratio:+.1f}" for ratio in (min(ratios), max(ratios))))
    return f"moved by {' to '.join(ends)} %" if ends not in (["+0.0"], ["-0.0"], ["-0.0", "+0.0"]) else "did not move"
