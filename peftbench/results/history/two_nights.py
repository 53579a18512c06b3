"""The rule of ``peftbench compare`` for two nights, where a series is too short to know its own noise, or has none.

Short series are judged between each night and the cell's night before. A score that repeats exactly changes only if
something else did; whether the new one is worse for new seeds and new examples is not told by the nights, which
repeat the same run, but by the seeds and examples of the two nights around the change. A change of speed is told
without the machine's part, of single cells and, where it is in all of them, of all cells together.
"""

from __future__ import annotations

import statistics
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from peftbench.errors import UserError
from peftbench.records.watch import Kind, Watch
from peftbench.results.history import exact
from peftbench.results.history.cell_changes import ANY_CHANGE, LONG, is_noisy, still_in_force
from peftbench.results.history.changes import Change
from peftbench.results.history.nights import Night
from peftbench.results.history.series import Series
from peftbench.results.watch import night as watched
from peftbench.results.watch.comparison import Comparison, compare
from peftbench.results.watch.findings import ALL_CELLS, Finding
from peftbench.results.watch.moved import Moved, moved
from peftbench.results.watch.quantities import Quantity
from peftbench.results.watch.speed import AGAINST_OTHERS

MOST_PAIRS = 60
"""Pairs of nights that are compared at most, the newest ones: each is read whole, which takes a part of a second."""


@dataclass(frozen=True)
class Judged:
    """What the comparisons of pairs of nights found."""

    changes: tuple[Change, ...]
    series: int
    """Series of which a pair was judged."""
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Pairs:
    """Any two nights as ``peftbench compare`` reads them, each read once."""

    nights: Sequence[Night]
    watch: Watch

    def compared(self, previous: int, night: int, kinds: Collection[Kind]) -> Comparison | None:
        """Return the comparison of two nights in some kinds of quantities; None if it cannot be made."""
        one, other = self.read(previous), self.read(night)
        if one is None or other is None:
            return None
        return compare(one, other, replace(self.watch, judge=tuple(kinds)))

    def moved(self, previous: int, night: int, kind: Kind) -> tuple[Moved, ...]:
        """Return what else moved between two nights, first what may explain a change of this kind."""
        one, other = self.read(previous), self.read(night)
        if one is None or other is None:
            return ()
        common = [cell for cell in other.summaries if cell in one.summaries]
        return moved(one, other, common, [kind])

    def read(self, place: int) -> watched.Night | None:
        """Return a night; None if its rows do not compare with each other, which its series bear."""
        if place not in self._known:
            try:
                self._known[place] = watched.read(self.nights[place].folder)
            except UserError:
                self._known[place] = None
        return self._known[place]

    @cached_property
    def _known(self) -> dict[int, watched.Night | None]:
        return {}


def judge(found: Iterable[Series], nights: Pairs) -> Judged:
    """Return the changes of the series that are judged by two nights."""
    chosen = [(series, _places(series)) for series in found if series.quantity.kind not in ANY_CHANGE]
    chosen = [(series, places) for series, places in chosen if places]
    pairs = sorted({_pair(series, place) for series, places in chosen for place in places}, key=lambda pair: pair[::-1])
    left_out = pairs[:-MOST_PAIRS]
    notes = (
        [f"the oldest {len(left_out)} of {len(pairs)} pairs of nights were not compared: only {MOST_PAIRS} are"]
        if left_out
        else []
    )
    kinds: dict[tuple[int, int], dict[Kind, None]] = {}
    for series, places in chosen:
        for place in places:
            kinds.setdefault(_pair(series, place), {})[series.quantity.kind] = None
    findings = {
        pair: _findings(nights.compared(*pair, tuple(kinds[pair]))) for pair in pairs if pair not in set(left_out)
    }
    changes: list[Change] = []
    judged = 0
    for series, places in chosen:
        verdicts = [_change(series, place, findings) for place in places]
        judged += any(known for known, _ in verdicts)
        changes += [change for _, change in verdicts if change is not None]
    changes += [common for pair in findings for common in _together(pair, findings, chosen)]
    return Judged(tuple(changes), judged, tuple(notes))


def _places(series: Series) -> list[int]:
    """Return the places in a series that are compared with the one before."""
    if len(series.points) < 2:
        return []
    if not is_noisy(series):
        return list(exact.steps(series.values).places)
    return list(range(1, len(series.points))) if len(series.points) < LONG else []


def _pair(series: Series, place: int) -> tuple[int, int]:
    return series.points[place - 1].night, series.points[place].night


Findings = Mapping[tuple[tuple[str, str], Quantity], Finding]


def _findings(comparison: Comparison | None) -> Findings:
    return {} if comparison is None else {(each.key, each.quantity): each for each in comparison.findings}


def _change(series: Series, place: int, findings: Mapping[tuple[int, int], Findings]) -> tuple[bool, Change | None]:
    """Return whether two nights could be judged, and the change if there is one."""
    finding = findings.get(_pair(series, place), {}).get((series.key, series.quantity))
    if finding is None or not finding.judged:
        return False, None
    one, other = series.points[place - 1], series.points[place]
    if finding.verdict == "unchanged" or one.value == other.value:
        return True, None
    after, newest = other.value, series.points[-1].value
    if series.quantity.kind == "speed" and finding.change is not None:
        after = one.value * (1 + finding.change)
        newest = after * _since(series, place, findings, series.cell)
    return True, Change(
        series.base,
        series.cell,
        series.quantity,
        other.night,
        one.night,
        one.value,
        after,
        "two nights",
        finding.p,
        len(series.points) - place,
        in_force=still_in_force(one.value, after, newest),
    )


def _since(series: Series, place: int, findings: Mapping[tuple[int, int], Findings], cell: str) -> float:
    """Return by what factor the speed changed from a night to the newest, without the machine's part.

    Between nights that do not compare it is the speeds' ratio as measured.

    Args:
        series: the speed of a cell.
        place: of the night in it.
        findings: of each pair of nights.
        cell: whose findings say what changed: the cell itself, or ``ALL_CELLS``.
    """
    factor = 1.0
    for later in range(place + 1, len(series.points)):
        moved = _moved(series, findings.get(_pair(series, later), {}), cell)
        one, other = series.points[later - 1].value, series.points[later].value
        if moved is not None:
            factor *= moved
        elif one > 0:
            factor *= other / one
    return factor


def _moved(series: Series, findings: Findings, cell: str) -> float | None:
    """Return by what factor a speed changed between two nights, without the machine's part; None if nothing says."""
    own, all_cells = (findings.get(((series.base, name), series.quantity)) for name in (series.cell, ALL_CELLS))
    together = None if all_cells is None or all_cells.change is None else 1 + all_cells.change
    if cell == ALL_CELLS and together is not None:
        return together
    if own is None or own.change is None:
        return None
    return (1 + own.change) * (together or 1.0) if own.rule == AGAINST_OTHERS else 1 + own.change


def _together(
    pair: tuple[int, int],
    findings: Mapping[tuple[int, int], Findings],
    chosen: Iterable[tuple[Series, Sequence[int]]],
) -> Iterator[Change]:
    """Yield the change of speed that all cells of a base model share between two nights, beyond the machine's part."""
    for ((base, _), quantity), finding in findings[pair].items():
        change, counts = finding.change, finding.verdict in ("regressed", "improved")
        if finding.cell != ALL_CELLS or quantity.kind != "speed" or not counts or change is None:
            continue
        own = {
            each.cell: each.change
            for each in findings[pair].values()
            if (each.base, each.quantity) == (base, quantity) and each.cell != ALL_CELLS and each.change is not None
        }
        points = [
            (series.points[place - 1].value, _since(series, place, findings, ALL_CELLS))
            for series, places in chosen
            for place in places
            if (series.base, series.quantity) == (base, quantity)
            and _pair(series, place) == pair
            and series.points[place - 1].value > 0
        ]
        if not points:
            continue
        before = statistics.median(one for one, _ in points)
        newest = (1 + change) * statistics.median(since for _, since in points) - 1
        yield Change(
            base,
            None,
            quantity,
            pair[1],
            pair[0],
            before,
            before * (1 + change),
            "two nights",
            finding.p,
            in_force=still_in_force(0.0, change, newest),
            cells=tuple(cell for cell, moved_by in own.items() if moved_by * change > 0),
            compared=len(own),
        )
