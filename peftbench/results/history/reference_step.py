"""Speeds relative to the reference step, which tells what the machine did, and which changes it explains."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

from peftbench.results.history.changes import Change
from peftbench.results.history.noise import ENOUGH
from peftbench.results.history.series import Series
from peftbench.results.watch.noise import FEWEST_CELLS, SHARE_OF_CELLS


def by_reference(group: Iterable[Series]) -> list[Series]:
    """Return speeds as they were if the reference step took as long as usual, of the nights that timed it.

    Nights with another version of torch than the newest are left out: it changes the reference step too. So are series
    of too few such nights.
    """
    found = []
    for series in group:
        newest = series.points[-1].by_reference
        known = [
            (point, point.by_reference[1])
            for point in series.points
            if point.by_reference and newest and point.by_reference[0] == newest[0]
        ]
        if len(known) > ENOUGH:
            usual = statistics.median(point.value / relative for point, relative in known)
            found.append(replace(series, points=tuple(replace(p, value=usual * relative) for p, relative in known)))
    return found


def common_nights(group: Iterable[Series], fewest: int = FEWEST_CELLS) -> list[int]:
    """Return the nights of which enough cells have a value to say what all cells did."""
    counted = Counter(point.night for series in group for point in series.points)
    return sorted(night for night, cells in counted.items() if cells >= fewest)


def judges(relative: Sequence[Series], group: Sequence[Series], change: Change) -> bool:
    """Whether what all cells did at a change is judged by the reference step, so that nothing else need tell it.

    Args:
        relative: speeds relative to the reference step, of the cells and nights that have them.
        group: the speeds as they were measured.
        change: found in these.
    """
    if len(common_nights(relative)) <= ENOUGH:
        return False
    nights = {change.previous, change.night}
    both, timed = (
        sum(nights <= {point.night for point in series.points} for series in listed) for listed in (group, relative)
    )
    return timed >= max(FEWEST_CELLS, SHARE_OF_CELLS * both)


def levels(series: Series, change: Change, begin: float, end: float, last: int) -> tuple[float, float, float] | None:
    """Return a cell's speed before and after a change and of the newest nights, each relative to the reference step.

    None if it is not known.

    Args:
        series: the speed as it was measured.
        change: found in it.
        begin: first night of the level before.
        end: first night of the level after the one that the change begins.
        last: first night of the newest level.
    """
    points = [point for relative in by_reference([series]) for point in relative.points]
    if not {change.previous, change.night} <= {point.night for point in points}:
        return None
    before = statistics.median(point.value for point in points if begin <= point.night < change.night)
    after = statistics.median(point.value for point in points if change.night <= point.night < end)
    newest = [point.value for point in points if point.night >= last][-3:]
    return before, after, statistics.median(newest)
