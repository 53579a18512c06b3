"""A comparison as aligned text for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from peftbench.report.notes import busy
from peftbench.results.compare.comparison import MEASURED, CellChange, Change, Comparison
from peftbench.results.compare.differences import Difference
from peftbench.results.seeds import Spread, Summary

NONE = "–"
HEAD = ("cell", "column", "old", "new", "change", "")
RIGHT = (2, 3, 4)
"""Columns that are aligned on the right."""


def render(comparison: Comparison) -> str:
    """Return the comparison as text: what is the same is counted, everything else gets a line."""
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
            yield cell.cell, "message", "", "", "", cell.new.messages[0].splitlines()[0][:80]
    for change in cell.changes:
        if change.verdict != "same":
            yield cell.cell, change.column, *_numbers(change), ("REGRESSED, " * change.fell) + (change.verdict or "")


def _statuses(summary: Summary) -> str:
    """Return all seeds by status, in words: ``2 ok, 1 oom``."""
    return ", ".join(f"{count} {status}" for status, count in summary.counts.items())


def _numbers(change: Change) -> tuple[str, str, str]:
    difference = change.difference
    moved = NONE if difference is None else _number(change.column, difference, sign="+")
    return _mean(change.column, change.old), _mean(change.column, change.new), moved


def _mean(column: str, spread: Spread | None) -> str:
    return NONE if spread is None else f"{_number(column, spread.mean)} (n={spread.n})"


def _number(column: str, value: float, sign: str = "") -> str:
    """Format a number by the unit in its column's name."""
    if column.startswith("score_"):
        return f"{value:{sign}.4f}"
    if not column.endswith("_bytes"):
        return f"{value:{sign},.0f}"
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if abs(value) >= size:
            return (
                f"{value / size:{sign}.3g} {unit}" if abs(value) < 1000 * size else f"{value / size:{sign},.0f} {unit}"
            )
    return f"{value:{sign},.0f} B"


def _aligned(rows: Sequence[tuple[str, ...]]) -> str:
    """Return rows in columns; a cell's name is written once."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines, last = [], None
    for row in rows:
        shown = ("" if row[0] == last else row[0], *row[1:])
        last = row[0]
        parts = [
            text.rjust(w) if i in RIGHT else text.ljust(w)
            for i, (text, w) in enumerate(zip(shown, widths, strict=True))
        ]
        lines.append("  ".join(parts).rstrip())
    return "\n".join(lines)


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
    return "\n".join(["not compared, because it does not compare:", *lines]) if lines else ""


def _left_out(comparison: Comparison) -> str:
    told = [
        f"{side}: {n} stored row{'s' * (n != 1)} not of the grid that was last run, or older: left out"
        for side, n in zip(("old", "new"), comparison.excluded, strict=True)
        if n
    ]
    return "\n".join(told)


def _unrelated(comparison: Comparison) -> str:
    """Say in two lines that these are results of different things."""
    old, new = (
        f"{name} is suite {', '.join(held.suites)} on {', '.join(held.bases)}"
        for name, held in zip((comparison.old, comparison.new), comparison.contents, strict=True)
    )
    return f"nothing compares, so no verdict: no cell is in both\n{old}; {new}\n"


def _busy(comparison: Comparison) -> str:
    return "\n".join(
        f"{side}: {busy.sentence(found)}"
        for side, found in zip(("old", "new"), comparison.busy, strict=True)
        if found is not None
    )


def _verdict(comparison: Comparison) -> str:
    if comparison.verdict is None:
        return "no verdict: no score was compared that could be judged"
    bad = [cell.cell for cell in comparison.cells if cell.broke or any(change.fell for change in cell.changes)]
    told = f"regressed: {', '.join(bad)}" if bad else "no regression: no score fell by more than noise explains"
    moved = [f"{column} {_moved(comparison, column)}" for column in MEASURED]
    return f"{told}\nmemory and time are not judged: {', '.join(moved)}"


def _moved(comparison: Comparison, column: str) -> str:
    """Return by how much a column moved over all cells, in percent of what it was."""
    changes = [change for cell in comparison.cells for change in cell.changes if change.column == column]
    ratios = [100 * (c.difference or 0.0) / c.old.mean for c in changes if c.new is not None and c.old and c.old.mean]
    if not ratios:
        return "was not compared"
    ends = list(dict.fromkeys(f"{ratio:+.1f}" for ratio in (min(ratios), max(ratios))))
    return f"moved by {' to '.join(ends)} %" if ends not in (["+0.0"], ["-0.0"], ["-0.0", "+0.0"]) else "did not move"
