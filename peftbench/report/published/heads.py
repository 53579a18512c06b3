"""The heads of rows, measured and published, in the same words."""

from __future__ import annotations

from peftbench.records import units as fmt
from peftbench.report.collect import method_title
from peftbench.report.published.load import names
from peftbench.report.published.measured import MeasuredRow
from peftbench.report.published.parts import shown, targets
from peftbench.report.published.records import Layout, PublishedRow

_PRECISIONS = {"nf4_dq": "nf4"}
"""What a precision is called in publications, and here."""


def measured_head(row: MeasuredRow, layout: Layout) -> tuple[str, ...]:
    """Return the head of a measured row: a text for each of the layout's dimensions."""
    cell = row.cell
    known, base = names(), str(cell.rows[0]["base"])
    titles = {
        "task": row.task or "",
        "base": known.bases[row.base].title if row.base else base,
        "method": known.methods[row.method].title if row.method else method_title(cell.kind),
        "rank": fmt.MISSING if cell.rank is None else str(cell.rank),
        "parameters": fmt.count(row.parameters, significant=True),
        "precision": cell.precision,
        "targets": shown(sorted(row.targets, key=_place)) if row.targets else fmt.MISSING,
    }
    return tuple(titles[name] for name in layout.rows)


def published_head(row: PublishedRow, layout: Layout) -> tuple[str, ...]:
    """Return the head of a published row; what it does not state is "–"."""
    known, settings = names(), row.settings
    modules = targets(settings["target_modules"]) if "target_modules" in settings else ()
    titles = {
        "task": row.group or "",
        "base": known.bases[row.base.lower()].title if row.base else "",
        "method": known.methods[row.method].title,
        "rank": shown(settings["rank"]) if "rank" in settings else fmt.MISSING,
        "parameters": fmt.count(row.parameters, significant=True),
        "precision": precision_of(str(settings.get("precision", fmt.MISSING))),
        "targets": shown(sorted(modules, key=_place)) if modules else fmt.MISSING,
    }
    return tuple(titles[name] for name in layout.rows)


def precision_of(printed: str) -> str:
    """Return what a printed precision is called here."""
    return _PRECISIONS.get(printed, printed)


def _place(name: str) -> int:
    order = ["q", "k", "v", "o", "gate", "up", "down"]
    return order.index(name) if name in order else len(order)
