"""Changes that cells have in common: shifts in no single cell significant, and the same change in most cells."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from peftbench.records.watch import Watch
from peftbench.results.history import change_points, exact, noise
from peftbench.results.history.cell_changes import ANY_CHANGE, LONG, least_change, still_in_force
from peftbench.results.history.changes import Change, Rule
from peftbench.results.history.reference_step import by_reference, common_nights, judges
from peftbench.results.history.series import Series
from peftbench.results.watch.common_shift import FEWEST, common_shift, significant
from peftbench.results.watch.noise import FEWEST_CELLS, SHARE_OF_CELLS
from peftbench.results.watch.quantities import Quantity

_BY_ITSELF: tuple[Rule, Rule] = "change point", "newest nights"
_BY_REFERENCE: tuple[Rule, Rule] = "change point, by the reference step", "newest nights, by the reference step"


def common_changes(found: Sequence[Series], watch: Watch, level: float) -> list[Change]:
    """Return the shifts that cells have in common.

    Between two nights the signed-rank test over the cells finds them. Times vary from night to night for all cells
    together, so that this test would find the machine: once there are enough nights, the middle of the cells' relative
    times is a series of its own, and before that see ``two_nights``. Where trials timed the reference step, the middle
    of the cells' speeds relative to it is another one, which varies less, and of these nights the first says nothing.

    Args:
        found: the series of all cells and quantities.
        watch: the least changes that count.
        level: probability of any false change, over all of these tests together (Holm).
    """
    candidates: list[Change] = []
    groups: dict[tuple[str, Quantity], list[Series]] = {}
    for series in found:
        if series.quantity.kind not in ANY_CHANGE:
            groups.setdefault((series.base, series.quantity), []).append(series)
    for group in groups.values():
        long = [each for each in group if len(each.points) >= LONG]
        if group[0].quantity.kind != "speed":
            candidates += _between_nights(group)
        elif len(long) >= FEWEST_CELLS:
            relative = by_reference(long)
            measured = _over_nights(long, _BY_ITSELF, FEWEST)
            candidates += _over_nights(relative, _BY_REFERENCE, FEWEST_CELLS)
            candidates += (each for each in measured if not judges(relative, long, each))
    kept = significant([1.0 if each.p is None else each.p for each in candidates], level)
    return _once(
        each
        for each, keep in zip(candidates, kept, strict=True)
        if keep and _large(each, watch) and len(each.cells) >= SHARE_OF_CELLS * each.compared
    )


def _once(found: Iterable[Change]) -> list[Change]:
    """Return changes without those that a rule before has found in the same night and direction."""
    first: dict[tuple[object, ...], Change] = {}
    for each in found:
        first.setdefault((each.base, each.quantity, each.night, each.difference > 0), each)
    return list(first.values())


def with_same_changes(changes: Sequence[Change], found: Iterable[Series]) -> list[Change]:
    """Return changes of single cells, those told once for all cells marked, and the common ones before them.

    A change that most cells have in the same night is common as well, whatever rule found it.
    """
    series = list(found)
    own = [each for each in changes if each.cell is not None]
    common = [each for each in changes if each.cell is None]
    groups: dict[tuple[str, Quantity, int, bool], list[Change]] = {}
    for each in own:
        groups.setdefault((each.base, each.quantity, each.night, each.difference > 0), []).append(each)
    for (base, quantity, night, up), group in groups.items():
        told = [c for c in common if (c.base, c.quantity, c.night, c.difference > 0) == (base, quantity, night, up)]
        measured = {
            each.cell
            for each in series
            if (each.base, each.quantity) == (base, quantity) and night in {point.night for point in each.points[1:]}
        }
        if not told and len(group) >= max(FEWEST, SHARE_OF_CELLS * len(measured)):
            common.append(_of_cells(group, len(measured)))
    marked = {(c.base, c.quantity, c.night, c.difference > 0) for c in common}
    own = [
        replace(each, part_of_common=(each.base, each.quantity, each.night, each.difference > 0) in marked)
        for each in own
    ]
    return [*common, *own]


def _of_cells(group: Sequence[Change], compared: int) -> Change:
    first = min(group, key=lambda each: -each.previous)
    return replace(
        first,
        cell=None,
        before=statistics.median(each.before for each in group),
        after=statistics.median(each.after for each in group),
        p=None,
        nights=max(each.nights for each in group),
        in_force=any(each.in_force for each in group),
        cells=tuple(str(each.cell) for each in group),
        compared=compared,
    )


def _large(change: Change, watch: Watch) -> bool:
    size = change.relative if change.quantity.relative else change.difference
    return size is not None and abs(size) > least_change(change.quantity, watch)


def _between_nights(group: Sequence[Series]) -> Iterator[Change]:
    """Yield the signed-rank test of each two nights that many cells were measured on one after the other."""
    pairs: dict[tuple[int, int], dict[str, tuple[float, float, float]]] = {}
    for series in group:
        for one, other in zip(series.points[:-1], series.points[1:], strict=True):
            pair = pairs.setdefault((one.night, other.night), {})
            pair[series.cell] = (one.value, other.value, series.points[-1].value)
    for (previous, night), cells in pairs.items():
        quantity = group[0].quantity
        moves = {cell: _move(quantity, one, other) for cell, (one, other, _) in cells.items()}
        shift = common_shift(moves)
        if shift is None or not shift.median:
            continue
        if quantity.relative:
            before = statistics.median(one for one, _, _ in cells.values())
            after = before * (1 + shift.median)
        else:
            before, after = (statistics.fmean(each[side] for each in cells.values()) for side in (0, 1))
        newest = statistics.median(_move(quantity, one, last) for one, _, last in cells.values())
        yield Change(
            group[0].base,
            None,
            quantity,
            night,
            previous,
            before,
            after,
            "over cells",
            shift.p,
            in_force=still_in_force(0.0, shift.median, newest),
            cells=shift.up if shift.median > 0 else shift.down,
            compared=shift.cells,
        )


def _move(quantity: Quantity, one: float, other: float) -> float:
    return (other - one) / abs(one) if quantity.relative and one else other - one


def _over_nights(group: Sequence[Series], rules: tuple[Rule, Rule], fewest: int) -> Iterator[Change]:
    """Yield the changes of the middle of the cells' values, each relative to its own median.

    Args:
        group: one quantity of several cells.
        rules: names of a step's rule and of the newest nights'.
        fewest: cells that a night needs. Beside the reference step fewer tell what all did than where the machine's
            part is among it.
    """
    ratios: dict[int, list[float]] = {}
    for series in group:
        centre = statistics.median(series.values)
        for point in series.points:
            ratios.setdefault(point.night, []).append(point.value / centre if centre else 1.0)
    nights = common_nights(group, fewest)
    values = [statistics.median(ratios[night]) for night in nights]
    if len(values) < LONG:
        return
    split = change_points.best_split(values)
    start = 0
    if split is not None:
        yield _common(group, nights, values, split.place, rules[0], split.p)
        start = split.place if split.p < 0.01 else 0
    newest = noise.departure(values[start:], 0.0, noise.farthest_night([values[start:-1]], 0.0))
    if newest is not None:
        yield _common(group, nights, values, start + newest.place, rules[1], newest.p)


def _common(
    group: Sequence[Series], nights: Sequence[int], values: Sequence[float], place: int, rule: Rule, p: float
) -> Change:
    before, after = exact.levels(values, [place])
    middle = statistics.median(statistics.median(series.values) for series in group)
    moved = []
    for series in group:
        one = [point.value for point in series.points if point.night < nights[place]]
        other = [point.value for point in series.points if point.night >= nights[place]]
        if one and other and (statistics.median(other) > statistics.median(one)) == (after > before):
            moved.append(series.cell)
    return Change(
        group[0].base,
        None,
        group[0].quantity,
        nights[place],
        nights[place - 1],
        before * middle,
        after * middle,
        rule,
        p,
        len(values) - place,
        in_force=still_in_force(before, after, statistics.median(values[-3:]) if place < len(values) - 3 else after),
        cells=tuple(moved),
        compared=len(group),
    )
