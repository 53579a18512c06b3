"""What a history found, in words: numbers by the unit of their quantity, changes as sentences."""

from __future__ import annotations

from collections.abc import Sequence

from peftbench.records import units
from peftbench.records.wording import abridged, plural
from peftbench.results.history.changes import Change, History, Outlier
from peftbench.results.watch.moved import Moved
from peftbench.results.watch.quantities import Quantity

_MOST_MOVED = 6
"""Differences that are told of one change; the page and JSON have all."""


def value(quantity: Quantity, number: float) -> str:
    """Return a value with its unit."""
    if quantity.unit == "bytes":
        return units.memory(number, 2)
    if quantity.unit == "fraction":
        return units.percent(number, 2)
    if quantity.unit == "parameters":
        return units.integer(number)
    return f"{units.small(number)} {quantity.unit}"


def size(change: Change) -> str:
    """Return by how much a quantity changed: "-1.65 points", "+9.6 %"."""
    if change.quantity.unit == "fraction":
        return f"{100 * change.difference:+.2f} points"
    if change.relative is None:
        return units.MISSING
    percent = 100 * change.relative
    return f"{percent:+.1f} %" if round(percent, 1) or not percent else f"{percent:+.1g} %"


def ends(change: Change) -> tuple[str, str]:
    """Return the old and the new level, with all digits where they would read the same."""
    before, after = (value(change.quantity, number) for number in (change.before, change.after))
    if before == after and change.difference:
        return f"{change.before:,.10g} {change.quantity.unit}", f"{change.after:,.10g} {change.quantity.unit}"
    return before, after


def where(history: History, change: Change) -> str:
    """Return the cell, or of a common change how many cells moved: "36 of 38 cells"; with several bases, of which."""
    cells = f"{len(change.cells)} of {plural(change.compared, 'cell')}"
    return (change.cell if change.cell is not None else cells) + _on(history, change.base)


def _on(history: History, base: str) -> str:
    """Return " on BASE" if the nights have several base models."""
    return f" on {base}" if len({series.base for series in history.series}) > 1 else ""


def how(change: Change) -> str:
    """Return the rule that found a change, with its p value."""
    if change.p is None:
        return change.rule
    return f"{change.rule}, p {'< 1e-12' if change.p < 1e-12 else f'= {units.small(change.p)}'}"


def state(history: History, change: Change) -> str:
    """Return what a change means now: regressed, improved, over, or too old to count."""
    if not change.in_force:
        return "over"
    if not change.worse:
        return "improved"
    return "REGRESSED" if history.counts(change) else "worse, but older than asked for"


def moved(change: Change) -> str:
    """Return what else was different that night, the likeliest cause first."""
    told = [_moved(each) for each in change.moved[:_MOST_MOVED]]
    more = len(change.moved) - len(told)
    return "; ".join([*told, *([f"{more} more"] if more > 0 else [])]) or "nothing else that is recorded"


def _moved(each: Moved) -> str:
    only = f" (in {abridged(each.cells, 3)})" if each.cells else ""
    return f"{each.name}: {each.old[:60]} -> {each.new[:60]}{only}"


def lasting(history: History, change: Change) -> str:
    """Return since when the new level holds, and how many nights."""
    nights = history.nights
    return f"{nights[change.night].name} (before: {nights[change.previous].name})"


def outlier(history: History, found: Outlier) -> str:
    """Return a single night that stands out, as a sentence."""
    quantity, cell = found.quantity, found.cell + _on(history, found.base)
    return (
        f"{history.nights[found.night].name}: {quantity.title} of {cell} was {value(quantity, found.value)} for one "
        f"night, around it {value(quantity, found.usual)}"
    )


def told(history: History) -> Sequence[Change]:
    """Return the changes that are told one by one: those that are part of a common change are told with it."""
    return [change for change in history.changes if not change.part_of_common]


def verdict(history: History) -> str:
    """Return the verdict in one sentence."""
    if not history.nights:
        return "no verdict: no night could be read"
    if len(history.nights) < 2:
        return f"no verdict: only one night ({history.nights[0].name}), and a change needs two"
    regressed = [change for change in told(history) if history.counts(change)]
    if regressed:
        now = "is" if len(regressed) == 1 else "are"
        return f"regressed: {plural(len(regressed), 'change')} for the worse {now} in force"
    if history.newest_lost:
        return "no verdict: the newest night could not be read"
    if history.verdict is None:
        return "no verdict: no cell was measured on two nights that compare"
    return "no regression: no change for the worse is in force"


def span(history: History) -> str:
    """Return how many nights of which time, and how much was judged."""
    nights = history.nights
    if not nights:
        return "no nights"
    cells = len({series.key for series in history.series})
    ends = dict.fromkeys((nights[0].name, nights[-1].name))
    return (
        f"{plural(len(nights), 'night')}, {' to '.join(ends)}; {plural(cells, 'cell')}, "
        f"{history.judged:,} of {len(history.series):,} series judged{_of_suites(history)}"
    )


def _of_suites(history: History) -> str:
    """Return a warning if the nights are of several suites, which need not have more in common than names of cells."""
    suites = sorted({str(row["suite"]) for night in history.nights for row in night.rows if row.get("suite")})
    if len(suites) < 2:
        return ""
    return f". Warning: nights of {len(suites)} suites ({abridged(suites, 3)}): what changed may be the suite"
