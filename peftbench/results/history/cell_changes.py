"""The changes of each cell's own series: exact ones, steps of noisy ones, and newest nights that depart."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from peftbench.records.watch import Watch
from peftbench.results.history import change_points, exact, noise
from peftbench.results.history.changes import Change, Outlier, Rule
from peftbench.results.history.reference_step import levels
from peftbench.results.history.series import Series
from peftbench.results.watch.common_shift import significant
from peftbench.results.watch.quantities import Quantity

ANY_CHANGE = ("memory", "size", "status")
"""Kinds whose difference is a change in itself, where the number repeats; of the others see ``two_nights``."""
LEAST_TOLERANCE = 0.01
"""Least relative change of memory on a GPU: its allocator reserves in blocks, and repetitions differ."""
_SCALES = 6
"""Noise scales that memory on a GPU may move without having changed."""
LONG = noise.ENOUGH + 1
"""Fewest nights of a series that is judged by its own noise; of shorter ones see ``two_nights``."""


def least_change(quantity: Quantity, watch: Watch) -> float:
    """Return up to which change nothing counts: relative, of scores a difference."""
    if quantity.better == "equal":
        return 0.0
    percent = {
        "memory": watch.memory_percent,
        "size": watch.size_percent,
        "speed": watch.speed_percent,
        "score": watch.score_points,
        "retention": watch.retention_percent,
        "merge": 100 * (watch.merge_factor - 1),
    }
    return percent.get(quantity.kind, 0.0) / 100


def counts(quantity: Quantity, before: float, after: float, watch: Watch) -> bool:
    """Whether a change is larger than the least one."""
    size = abs(after - before)
    return size > least_change(quantity, watch) * (abs(before) if quantity.relative else 1.0) and size > 0


def exact_changes(found: Iterable[Series], watch: Watch) -> tuple[list[Change], list[Outlier]]:
    """Return the changes of numbers that repeat, and of memory on a GPU beyond its allocator's tolerance."""
    chosen = [each for each in found if each.quantity.kind in ANY_CHANGE and len(each.points) > 1]
    changes: list[Change] = []
    outliers: list[Outlier] = []
    for group in _by_quantity(chosen):
        inexact = [each.values for each in group if not each.exact]
        measured = max(LEAST_TOLERANCE, _SCALES * noise.relative_scale(inexact)) if inexact else 0.0
        for series in group:
            least = least_change(series.quantity, watch)
            steps = exact.steps(series.values, least if series.exact else max(measured, least))
            rule: Rule = "exact" if series.exact else "beyond tolerance"
            changes += _changes(series, [(place, rule, None) for place in steps.places], watch)
            outliers += _outliers(series, steps.outliers)
    return changes, outliers


def noisy_changes(found: Iterable[Series], watch: Watch, level: float) -> tuple[list[Change], list[Outlier]]:
    """Return the changes of series that vary from night to night and are long enough to say how much.

    Args:
        found: series of all cells and quantities; exact and short ones are passed over.
        watch: the least changes that count.
        level: probability of any false change over all series together. Half of it is spent on steps (Holm over the
            series; parts of a divided series at the strictest of its levels), half on the newest nights.
    """
    chosen = [each for each in found if is_noisy(each) and len(each.points) >= LONG]
    if not chosen:
        return [], []
    whole = [change_points.best_split(series.values) for series in chosen]
    strict = level / 2 / len(chosen)
    divided = significant([1.0 if split is None else split.p for split in whole], level / 2)
    steps = [
        [*_inner(series.values, split, strict)] if divides and split else []
        for series, split, divides in zip(chosen, whole, divided, strict=True)
    ]
    newest = _newest(chosen, steps, level / 2)
    changes: list[Change] = []
    outliers: list[Outlier] = []
    for series, own, last in zip(chosen, steps, newest, strict=True):
        rules: list[tuple[int, Rule, float | None]] = [(split.place, "change point", split.p) for split in own]
        if last is not None:
            rules.append((last.place, "newest nights", last.p))
        changes += _beyond_the_machine(series, [*_changes(series, rules, watch)], watch)
        places = noise.outliers(series.values, noise.relative_scale([series.values]))
        outliers += _outliers(series, [place for place in places if place not in {rule[0] for rule in rules}])
    return changes, outliers


def is_noisy(series: Series) -> bool:
    """Whether a series varies from night to night although nothing changed."""
    return series.quantity.kind not in ANY_CHANGE and not series.repeats


def _inner(values: Sequence[float], split: change_points.Split, level: float) -> Iterator[change_points.Split]:
    yield from change_points.splits(values[: split.place], level)
    yield split
    for inner in change_points.splits(values[split.place :], level):
        yield change_points.Split(split.place + inner.place, inner.p)


def _newest(
    chosen: Sequence[Series], steps: Sequence[Sequence[change_points.Split]], level: float
) -> list[noise.Departure | None]:
    """Return where the newest nights depart from the last level, corrected over all series by Holm's method."""
    starts = [own[-1].place if own else 0 for own in steps]
    last = [series.values[start:] for series, start in zip(chosen, starts, strict=True)]
    found: list[noise.Departure | None] = [None] * len(chosen)
    for quantity in dict.fromkeys(series.quantity for series in chosen):
        places = [place for place, series in enumerate(chosen) if series.quantity == quantity]
        pooled = noise.relative_scale(last[place] for place in places)
        farthest = noise.farthest_night((last[place][:-1] for place in places), pooled)
        for place in places:
            found[place] = noise.departure(last[place], pooled, farthest)
    kept = significant([1.0 if each is None else each.p for each in found], level)
    return [
        noise.Departure(start + each.place, each.p) if each is not None and keep else None
        for each, keep, start in zip(found, kept, starts, strict=True)
    ]


def _changes(series: Series, found: Sequence[tuple[int, Rule, float | None]], watch: Watch) -> Iterator[Change]:
    """Yield a change for each place whose levels are farther apart than the least change."""
    kept = sorted(found)
    while True:
        reached = exact.levels(series.values, [place for place, _, _ in kept])
        pairs = list(itertools.pairwise(reached))
        small = [i for i, (before, after) in enumerate(pairs) if not counts(series.quantity, before, after, watch)]
        if not small:
            break
        del kept[min(small, key=lambda i: abs(pairs[i][1] - pairs[i][0]))]
    ends = [place for place, _, _ in kept[1:]] + [len(series.points)] * bool(kept)
    for (place, rule, p), (before, after), end in zip(kept, pairs, ends, strict=True):
        yield Change(
            series.base,
            series.cell,
            series.quantity,
            series.points[place].night,
            series.points[place - 1].night,
            before,
            after,
            rule,
            p,
            end - place,
            in_force=still_in_force(before, after, reached[-1]),
        )


def _beyond_the_machine(series: Series, found: Sequence[Change], watch: Watch) -> Iterator[Change]:
    """Yield the changes, without those of speed that the reference step shows too, which are the machine's.

    Nor does the machine say whether a change is still in force, where the reference step is known.
    """
    nights = [-math.inf, *(each.night for each in found), math.inf]
    for each, begin, end in zip(found, nights[:-2], nights[2:], strict=True):
        known = levels(series, each, begin, end, found[-1].night)
        if known is None:
            yield each
            continue
        before, after, newest = known
        if counts(series.quantity, before, after, watch) and (after > before) == (each.after > each.before):
            yield replace(each, in_force=still_in_force(before, after, newest))


def still_in_force(before: float, after: float, newest: float) -> bool:
    """Whether the newest level is on the changed side: nearer to the level after a change than to that before it."""
    return (newest - before) * (after - before) > 0 and abs(newest - before) >= abs(after - before) / 2


def _outliers(series: Series, places: Iterable[int]) -> Iterator[Outlier]:
    values = series.values
    for place in places:
        around = [*values[max(0, place - 3) : place], *values[place + 1 : place + 4]]
        night = series.points[place].night
        yield Outlier(series.base, series.cell, series.quantity, night, values[place], statistics.median(around))


def _by_quantity(found: Iterable[Series]) -> list[list[Series]]:
    groups: dict[Quantity, list[Series]] = {}
    for series in found:
        groups.setdefault(series.quantity, []).append(series)
    return list(groups.values())
