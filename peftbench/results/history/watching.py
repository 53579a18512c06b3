"""From results folders to what changed in them, and when."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from peftbench.records.watch import DEFAULT, Kind, Watch
from peftbench.results import store
from peftbench.results.history import nights as reading
from peftbench.results.history import two_nights
from peftbench.results.history.cell_changes import ANY_CHANGE, LONG, exact_changes, is_noisy, noisy_changes
from peftbench.results.history.changes import Change, History
from peftbench.results.history.common_changes import common_changes, with_same_changes
from peftbench.results.history.missing import what_is_missing
from peftbench.results.history.series import COLUMNS, Series, series_of
from peftbench.results.watch.moved import Moved

LEVEL = 0.01
"""Probability of any false alarm over all series of a history, if their noise is what it is taken for: one page in a
hundred nights. Of this a half is for cells' noisy series and a half for what cells have in common."""
MOST_CAUSES = 60
"""Pairs of nights whose other differences are read at most, the newest ones."""


def history(
    given: Sequence[Path],
    last: int | None = None,
    changed: Callable[[Watch], Watch] = lambda watch: watch,
) -> History:
    """Return what changed over a row of nights.

    Args:
        given: results folders, or folders of them.
        last: newest nights in which a change must have begun to count as a regression; None for all.
        changed: given what the suite of the newest night judges, else ``records.watch.DEFAULT``, returns which kinds
            of quantities are judged, and the least changes that count.

    Raises:
        UserError: if a path is no such folder.
    """
    nights = reading.read(given, COLUMNS)
    watch = changed((_watch_of(nights.found[-1]) if nights.found else None) or DEFAULT)
    found = series_of(nights.found, watch.judge)
    pairs = two_nights.Pairs(nights.found, watch)
    exact, outliers = exact_changes(found, watch)
    noisy, single = noisy_changes(found, watch, LEVEL / 2)
    short = two_nights.judge(found, pairs)
    own = [*exact, *noisy, *short.changes]
    changes = with_same_changes([*own, *common_changes(found, watch, LEVEL / 2)], found)
    notes = (*nights.notes, *short.notes, *what_is_missing(nights.found, found, watch.judge))
    judged = _judged(found, short.series)
    since = 0 if last is None else max(0, len(nights.found) - last)
    single_nights, lost = (*outliers, *single), nights.newest_lost
    made = History(nights.found, notes, tuple(found), (), single_nights, judged, since, lost)
    ordered = sorted(changes, key=lambda each: _order(each, made))
    return replace(made, changes=tuple(_with_causes(ordered, pairs)))


def _watch_of(night: reading.Night) -> Watch | None:
    grid = store.recorded_grid(night.folder)
    return None if grid is None else grid.watch


def _judged(found: Sequence[Series], by_two_nights: int) -> int:
    """Return how many series were judged.

    Statuses alone are nothing judged where there are numbers, nor is a cell of which no trial ever ended ok.
    """
    chosen = [series for series in found if _always_judged(series)]
    numbers = sum(series.quantity.kind != "status" for series in chosen) + by_two_nights
    if not numbers and any(series.quantity.kind != "status" for series in found):
        return 0
    return numbers + sum(series.quantity.kind == "status" and any(series.values) for series in chosen)


def _always_judged(series: Series) -> bool:
    if len(series.points) < 2:
        return False
    return series.quantity.kind in ANY_CHANGE or not is_noisy(series) or len(series.points) >= LONG


def _order(change: Change, made: History) -> tuple[bool, bool, bool, int, str, str]:
    """What regressed first, then changes in force, then common ones, then the newest."""
    own = change.cell is not None
    return not made.counts(change), not change.in_force, own, -change.night, change.quantity.name, change.cell or ""


def _with_causes(changes: Iterable[Change], nights: two_nights.Pairs) -> list[Change]:
    """Return the changes with what else moved between their nights; of the oldest pairs of nights nothing is read."""
    listed = list(changes)
    read = set(sorted({(each.night, each.previous) for each in listed}, reverse=True)[:MOST_CAUSES])
    known: dict[tuple[int, int, Kind], tuple[Moved, ...]] = {}
    found = []
    for change in listed:
        key = change.previous, change.night, change.quantity.kind
        if (change.night, change.previous) in read and key not in known:
            known[key] = nights.moved(*key)
        found.append(change.because(_of_cells(change, known.get(key, ()))))
    return found


def _of_cells(change: Change, moved: Iterable[Moved]) -> tuple[Moved, ...]:
    """Return what moved in a change's own cells."""
    cells = {change.cell} if change.cell is not None else set(change.cells)
    return tuple(each for each in moved if not each.cells or cells & set(each.cells))
