"""The heads of rows, measured and published, in the same words."""

from __future__ import annotations

from peftbench.records import units as fmt
from peftbench.report.collect import method_title
from peftbench.report.published.facts import double_quantization
from peftbench.report.published.load import names
from peftbench.report.published.measured import MeasuredRow
from peftbench.report.published.parts import shown, targets
from peftbench.report.published.records import Layout, PublishedRow

_PRECISIONS = {"nf4_dq": "nf4"}
"""What a precision is called in publications, and here."""
_DOUBLE = " + DQ"
"""What follows a precision whose quantization constants are quantized too, as publications write it."""


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
        "precision": cell.precision + (_DOUBLE if double_quantization(cell) else ""),
        "targets": shown(sorted(row.targets, key=_place)) if row.targets else fmt.MISSING,
    }
    return tuple(titles[name] for name in layout.rows)


def published_head(row: PublishedRow, layout: Layout, rank: object = None) -> tuple[str, ...]:
    """Return the head of a published row; what it does not state is "–".

    Args:
        row: the row.
        layout: what the head has.
        rank: the rank that its table's protocol states of it; None if there is none.
    """
    known, settings = names(), row.settings
    modules = targets(settings["target_modules"]) if "target_modules" in settings else ()
    titles = {
        "task": row.group or "",
        "base": known.bases[row.base.lower()].title if row.base else "",
        "method": known.methods[row.method].title,
        "rank": fmt.MISSING if settings.get("rank", rank) is None else shown(settings.get("rank", rank)),
        "parameters": fmt.count(row.parameters, significant=True),
        "precision": _printed_precision(str(settings.get("precision", fmt.MISSING))),
        "targets": shown(sorted(modules, key=_place)) if modules else fmt.MISSING,
    }
    return tuple(titles[name] for name in layout.rows)


def _printed_precision(printed: str) -> str:
    return precision_of(printed) + (_DOUBLE if printed in _PRECISIONS else "")


def precision_of(printed: str) -> str:
    """Return what a printed precision is called here."""
    return _PRECISIONS.get(printed, printed)


def _place(name: str) -> int:
    order = ["q", "k", "v", "o", "gate", "up", "down"]
    return order.index(name) if name in order else len(order)
