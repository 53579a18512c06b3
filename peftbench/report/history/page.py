"""A history as one HTML file that opens offline: the changes first, then a sparkline for each cell and quantity."""

from __future__ import annotations

from dataclasses import dataclass

from peftbench.report import page_template
from peftbench.report.history import words
from peftbench.results.history.changes import Change, History
from peftbench.results.history.series import Series
from peftbench.version import __version__

WIDTH, HEIGHT = 150, 30
"""Of a sparkline, pixels."""
_MARGIN = 4


@dataclass(frozen=True)
class Mark:
    """A change on a sparkline."""

    x: float
    y: float
    good: bool
    title: str


@dataclass(frozen=True)
class Sparkline:
    """A series as a line from the first night to the newest."""

    path: str
    """Of an SVG path."""
    x: float
    """Of the newest value."""
    y: float
    marks: tuple[Mark, ...]
    title: str
    newest: str
    """The newest value as text."""


def html(history: History) -> str:
    """Return the page."""
    cells = _cells(history)
    titles = dict.fromkeys(series.quantity.title for series in history.series)
    return page_template.template("history.html.j2").render(
        version=__version__,
        history=history,
        words=words,
        changes=[(change, _of_change(history, change)) for change in words.told(history)],
        cells=cells,
        titles=list(titles),
        width=WIDTH,
        height=HEIGHT,
    )


def _cells(history: History) -> list[tuple[str, dict[str, list[Sparkline]], bool]]:
    """Return each cell with its sparklines by quantity and whether it regressed; those that did first."""
    bases = {series.base for series in history.series}
    bad = {(change.base, cell) for change in history.changes if history.counts(change) for cell in _own(change)}
    found: dict[tuple[str, str], dict[str, list[Sparkline]]] = {}
    for series in history.series:
        found.setdefault(series.key, {}).setdefault(series.quantity.title, []).append(_sparkline(history, series))
    listed = [
        (f"{base} {cell}" if len(bases) > 1 else cell, lines, (base, cell) in bad)
        for (base, cell), lines in found.items()
    ]
    return sorted(listed, key=lambda each: not each[2])


def _own(change: Change) -> tuple[str, ...]:
    return (change.cell,) if change.cell is not None else ()


def _of_change(history: History, change: Change) -> list[Sparkline]:
    """Return the sparkline of a change's series; of a common change none, as it has no single one."""
    return [
        _sparkline(history, series)
        for series in history.series
        if change.cell is not None
        and (series.key, series.quantity) == ((change.base, change.cell), change.quantity)
        and change.night in {point.night for point in series.points}
    ]


def _sparkline(history: History, series: Series) -> Sparkline:
    values = series.values
    low, high = min(values), max(values)
    across = (WIDTH - 2 * _MARGIN) / max(1, len(history.nights) - 1)
    up = (HEIGHT - 2 * _MARGIN) / (high - low) if high > low else 0.0
    place = {
        point.night: (
            round(_MARGIN + across * point.night, 1),
            round(HEIGHT - _MARGIN - up * (point.value - low), 1) if up else HEIGHT / 2,
        )
        for point in series.points
    }
    own = [
        change
        for change in history.changes
        if (change.base, change.cell, change.quantity) == (series.base, series.cell, series.quantity)
        and change.night in place
    ]
    newest = series.points[-1]
    ends = f"{words.value(series.quantity, low)} to {words.value(series.quantity, high)}"
    return Sparkline(
        "M" + "L".join(f"{x:g},{y:g}" for x, y in place.values()),
        *place[newest.night],
        tuple(
            Mark(
                *place[change.night],
                not change.worse,
                f"{history.nights[change.night].name}: {words.size(change)}",
            )
            for change in own
        ),
        f"{series.cell}, {series.quantity.title}: {len(values)} nights, {ends}",
        words.value(series.quantity, newest.value),
    )
