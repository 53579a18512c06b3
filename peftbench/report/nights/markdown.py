"""A comparison of two nights in GitHub's Markdown: changes first, everything else folded.

It fits a comment on a pull request (65,536 characters) as well as a step summary.
"""

from __future__ import annotations

from collections.abc import Sequence

from peftbench.report.nights import words
from peftbench.report.tables.writers import md, md_line
from peftbench.results.watch.comparison import Comparison

LARGEST = 60_000
"""Characters of the text; what would exceed them is left out and counted."""


def render(comparison: Comparison) -> str:
    """Return the comparison as Markdown."""
    if comparison.unrelated:
        return "### peftbench: no verdict\n\n" + md(words.unrelated(comparison)) + "\n"
    head = words.heading(comparison)
    parts = [
        f"### peftbench: {md(head)}",
        f"`{_code(comparison.old.name)}` → `{_code(comparison.new.name)}`",
        _table(words.HEAD, [words.row(found, comparison) for found in words.changes(comparison)]),
        _list("What else changed, the likeliest cause first", [*map(words.moved, comparison.moved)]),
        _list("", words.together(comparison)),
        _fold("Cannot tell", [each.sentence(len(comparison.cells)) for each in words.cannot_tell(comparison)]),
        _unchanged(comparison),
        _list("", words.remarks(comparison)),
    ]
    return _fitting([part for part in parts if part])


def _fitting(parts: Sequence[str]) -> str:
    """Return as many parts as there is room for, each with an empty line after it; the first is always there."""
    text, left = "", 0
    for part in parts:
        cut = part if text else part[:LARGEST]
        if len(text) + len(cut) > LARGEST:
            left += 1
        else:
            text += cut + "\n\n"
    note = f"{left} parts do not fit here; `--format html` or `json` has everything.\n" if left else ""
    return text.rstrip("\n") + "\n" + (f"\n{note}" if note else "")


def _table(head: Sequence[str], rows: Sequence[tuple[str, ...]]) -> str:
    if not rows:
        return ""
    most = LARGEST // 400
    right = {words.HEAD[place] for place in words.RIGHT}
    rule = "|" + "|".join(" ---: " if name in right else " :--- " for name in head) + "|"
    lines = [md_line(head), rule, *(_row(row) for row in rows[:most])]
    if len(rows) > most:
        lines.append(f"\n{len(rows) - most} more rows do not fit here.")
    return "\n".join(lines)


def _row(row: tuple[str, ...]) -> str:
    return f"| **{md(row[0])}** " + md_line(row[1:]) if row[0] == "regressed" else md_line(row)


def _list(title: str, lines: Sequence[str]) -> str:
    if not lines:
        return ""
    items = "\n".join(f"- {md(line)}" for line in lines)
    return f"**{title}**\n\n{items}" if title else items


def _fold(title: str, lines: Sequence[str]) -> str:
    return _folded(f"{title}: {len(lines)}", "\n".join(f"- {md(line)}" for line in lines)) if lines else ""


def _unchanged(comparison: Comparison) -> str:
    found = comparison.of("unchanged")
    rows = [words.row(each, comparison)[1:] for each in found]
    return _folded(f"Unchanged: {len(found)}", _table(words.HEAD[1:], rows)) if rows else ""


def _folded(summary: str, body: str) -> str:
    return f"<details><summary>{summary}</summary>\n\n{body}\n\n</details>"


def _code(text: str) -> str:
    """Return text for a code span: one line, without the character that ends it."""
    return " ".join(text.split()).replace("`", "'")
