"""Notes on significance: cells near the best, cells like it, those that differ, what could be detected."""

from __future__ import annotations

from collections.abc import Iterable

from peftbench.records.wording import abridged, plural
from peftbench.report.collect import MEAN
from peftbench.report.derived.answer import Nearness
from peftbench.report.derived.significance import Significance
from peftbench.results.crossed_effects.planning import Sensitivity
from peftbench.results.crossed_effects.ranking import Ranking

GOOD = "✓"
"""Marks a cell that is known to lie within the tolerated loss of the best."""
_MOST_NAMED = 12


def notes(found: Significance, near: Nearness | None = None) -> Iterable[str]:
    """Yield the notes on significance, and for which tasks there are no tests, and why."""
    if near:
        yield nearness(near)
    yield from _untested(found)
    yield from found.failures
    if found.headline not in found.rankings:
        return
    yield _like_best(found)
    yield from _against_reference(found.rankings[found.headline], found.headline)
    if found.sensitivity:
        yield sensitivity(found.sensitivity)
    yield f"Tests and 95 % intervals (in brackets on the page and in Markdown) account for {scope(found)}."


def page_notes(found: Significance) -> Iterable[str]:
    """Yield the notes of the page, whose table has probabilities in place of marks."""
    yield from _untested(found)
    yield from found.failures
    if found.headline not in found.rankings:
        return
    yield from _against_reference(found.rankings[found.headline], found.headline)
    if found.sensitivity:
        yield sensitivity(found.sensitivity)
    yield f"Tests and 95 % intervals account for {scope(found)}."


def _untested(found: Significance) -> Iterable[str]:
    """Yield why there are no tests; tasks with the same reason together."""
    tasks: dict[str, list[str]] = {}
    for task, reason in found.untested.items():
        tasks.setdefault(reason, []).append(task)
    for reason, names in tasks.items():
        yield f"No significance tests and no intervals from single examples for {', '.join(names)} ({reason})."


def scope(found: Significance) -> str:
    """Return which variation tests and intervals account for."""
    scores = [item for each in found.rankings.values() for item in each.scores.items()]
    scopes = {estimate.scope for name, estimate in scores if name in found.tuned}
    both = "variation over seeds and over test examples"
    if scopes == {"new seeds and new examples"}:
        return both
    if "new seeds and new examples" in scopes:
        return f"{both}; those of cells with one seed, for variation over test examples only"
    return "variation over test examples only: each cell has one seed"


def nearness(near: Nearness) -> str:
    """Return what the column of probabilities means, and what its mark."""
    if near.failure:
        return near.failure
    within, cells = f"{near.within:g}", plural(len(near.probabilities), "cell")
    meaning = (
        f"P(within {within}), short P({within}): probability that a cell lies within {within} points of the best tuned "
        "cell on the headline score, for new seeds and new examples."
    )
    if not near.good:
        return f"{meaning} No cell is known to."
    return f"{meaning} ✓: known to; among {cells}, that takes {100 * near.level:.1f} %."


def _like_best(found: Significance) -> str:
    """Return which cells cannot be distinguished from the best, which is not the same as being near it."""
    ranking = found.rankings[found.headline]
    on = f"the {MEAN}" if found.headline == MEAN else found.headline
    others = [cell for cell in ranking.ties if cell != ranking.best]
    best = [f"{each.significantly_best} ({task})" for task, each in found.rankings.items() if each.significantly_best]
    winner = f" Significantly best: {', '.join(best)}." if best else ""
    if not others:
        return f"Every cell differs significantly from the best on {on} (Holm-adjusted p < 0.05).{winner}"
    return (
        f"Not distinguishable from the best on {on}, {ranking.best} (Holm-adjusted p ≥ 0.05), which does not mean as "
        f"good: {abridged(others, _MOST_NAMED)}.{winner}"
    )


def _against_reference(found: Ranking, headline: str) -> Iterable[str]:
    if not found.with_reference:
        return
    other = found.with_reference[0].against
    on = f"on the {MEAN}" if headline == MEAN else f"on {headline}"
    sides = {
        side: [c.cell for c in found.with_reference if c.significant and (c.estimate.value > 0) == above]
        for side, above in (("below", False), ("above", True))
    }
    for side, names in sides.items():
        if names:
            yield f"Significantly {side} {other} {on} (Holm-adjusted p < 0.05): {', '.join(names)}."
    if not any(sides.values()):
        yield f"No cell differs significantly from {other} {on} (Holm-adjusted p < 0.05)."


def sensitivity(found: Sensitivity) -> str:
    """Return the minimum detectable difference, and the seeds that a smaller difference would take."""
    size = f"{found.seeds} seeds and {found.examples:,} examples"
    test = f"80 % power, {found.comparisons} comparisons, Holm"
    if found.detectable < 1:
        points = f"{100 * found.detectable:.1f}"
        minimum = f"Minimum detectable difference with {size}: {points} points ({test})."
    else:
        minimum = (
            f"These results cannot tell methods apart: with {size}, no difference in score would be detected, however "
            f"large ({test})."
        )
    if not found.undetectable:
        return minimum
    how = (
        f"detecting it would take about {found.seeds_needed} seeds"
        if found.seeds_needed
        else "no number of seeds would detect it with so few examples"
    )
    return f"{minimum} The largest observed difference is {100 * found.largest_gap:.1f} points; {how}."
