"""A history as text for a terminal, as Markdown for a step summary, and as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from peftbench.records.wording import plural, printable
from peftbench.report.history import words
from peftbench.report.tables.writers import md, md_line
from peftbench.results.history.changes import Change, History
from peftbench.results.remote_names import name_of

_MOST = 40
"""Changes, and single nights, that text and Markdown list; the page and JSON have all."""
_HEAD = ("first night", "", "where", "what", "before", "after", "change", "found by", "what else changed that night")


def text(history: History) -> str:
    """Return what changed, the changes first, as text."""
    blocks = ["\n".join(map(printable, (words.verdict(history), words.span(history))))]
    changes = words.told(history)
    blocks += ["\n".join(map(printable, _lines(history, change))) for change in changes[:_MOST]]
    blocks += ["\n".join(map(printable, _rest(history)))]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _lines(history: History, change: Change) -> Iterator[str]:
    quantity = change.quantity
    yield f"{words.state(history, change)}  {quantity.title}, {words.where(history, change)}: {words.size(change)}"
    yield f"  {' -> '.join(words.ends(change))}, {words.how(change)}"
    yield f"  since {words.lasting(history, change)}"
    if change.rule.startswith("newest nights") and change.nights == 1:
        yield "  one night so far: a step or a single outlier, the next night tells"
    yield f"  what else changed: {words.moved(change)}"


def _rest(history: History) -> Iterator[str]:
    """Yield what is told after the changes."""
    left_out = len(words.told(history)) - _MOST
    if left_out > 0:
        yield f"{plural(left_out, 'more change')}: see --format html or json"
    part = sum(change.part_of_common for change in history.changes)
    if part:
        yield f"{plural(part, 'change')} of single cells told with those that cells have in common: see --format json"
    for found in history.outliers[-_MOST:]:
        yield f"single night: {words.outlier(history, found)}"
    yield from (f"note: {note}" for note in history.notes)


def markdown(history: History) -> str:
    """Return what changed as GitHub's Markdown: a line with the verdict, and a table of changes."""
    lines = [f"**{md(words.verdict(history))}** ({md(words.span(history))})", ""]
    changes = words.told(history)
    if changes:
        lines += [md_line(_HEAD), "|" + " --- |" * len(_HEAD)]
        lines += [md_line(_row(history, change)) for change in changes[:_MOST]]
        lines.append("")
    lines += [f"- {md_line([line])[2:-2]}" for line in _rest(history)]
    return "\n".join(lines).rstrip() + "\n"


def _row(history: History, change: Change) -> tuple[str, ...]:
    quantity = change.quantity
    return (
        history.nights[change.night].name,
        words.state(history, change),
        words.where(history, change),
        quantity.title,
        *words.ends(change),
        words.size(change),
        words.how(change),
        words.moved(change),
    )


def as_json(history: History) -> str:
    """Return everything that was found as JSON; values are in the unit that stands beside them."""
    return json.dumps(record(history), indent=1) + "\n"


def record(history: History) -> dict[str, Any]:
    """Return everything that was found as plain values, in the unit that stands beside them."""
    verdict = {True: "no regression", False: "regressed", None: None}[history.verdict]
    return {
        "verdict": verdict,
        "nights": [{"name": n.name, "date": n.date, "folder": name_of(n.folder)} for n in history.nights],
        "changes": [_change(history, change) for change in history.changes],
        "outliers": [
            {
                "base": each.base,
                "cell": each.cell,
                "quantity": each.quantity.name,
                "unit": each.quantity.unit,
                "night": history.nights[each.night].name,
                "value": each.value,
                "usual": each.usual,
            }
            for each in history.outliers
        ],
        "series": [
            {
                "base": each.base,
                "cell": each.cell,
                "quantity": each.quantity.name,
                "unit": each.quantity.unit,
                "conditions": dict(each.conditions),
                "nights": [history.nights[point.night].name for point in each.points],
                "values": each.values,
            }
            for each in history.series
        ],
        "judged_series": history.judged,
        "notes": list(history.notes),
    }


def _change(history: History, change: Change) -> dict[str, Any]:
    return {
        "regressed": history.counts(change),
        "in_force": change.in_force,
        "worse": change.worse,
        "base": change.base,
        "cell": change.cell,
        "cells": list(change.cells),
        "cells_compared": change.compared,
        "part_of_common": change.part_of_common,
        "quantity": change.quantity.name,
        "unit": change.quantity.unit,
        "night": history.nights[change.night].name,
        "previous_night": history.nights[change.previous].name,
        "before": change.before,
        "after": change.after,
        "nights_of_new_level": change.nights,
        "rule": change.rule,
        "p": change.p,
        "moved": [
            {
                "what": each.what,
                "name": each.name,
                "old": each.old,
                "new": each.new,
                "cells": list(each.cells),
                "may_explain": list(each.may_explain),
            }
            for each in change.moved
        ],
    }
