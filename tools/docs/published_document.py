"""The tables of ``docs/published.md``: the layouts, the published tables, and those that are left out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from peftbench.report.published import load
from peftbench.report.tables.writers import md
from tools.published_protocols import LEFT_OUT


def layouts() -> str:
    """Return a row per layout."""
    rows = [
        (f"`{one.name}`", md(one.title), ", ".join(f"`{source.table}`" for source in one.published), md(one.note))
        for one in load.layouts().values()
    ]
    return _table(("layout", "shows", "published tables", "before you compare"), rows)


def tables() -> str:
    """Return a row per published table."""
    rows = []
    for one in load.tables().values():
        wrong = "; ".join(mismatch.words for mismatch in load.mismatches(one))
        averages = "none printed" if one.average is None else md(wrong) or "follow from the cells"
        rows.append((f"`{one.id}`", f"[{md(one.title)}]({one.url})", str(len(one.rows)), one.hand, averages))
    return _table(("table", "source", "rows", "read", "averages"), rows)


def left_out() -> str:
    """Return a row per reason with the tables that it is of."""
    reasons: dict[str, list[str]] = {}
    for name, reason in LEFT_OUT.items():
        reasons.setdefault(reason, []).append(f"`{name}`")
    return _table(("why", "tables"), [(md(reason), ", ".join(names)) for reason, names in reasons.items()])


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))
