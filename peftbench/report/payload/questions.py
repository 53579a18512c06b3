"""What the page needs to answer other questions than the default one as ``peftbench answer`` does.

Budgets only select cells, so a question's tolerated loss needs each cell's probability of lying within it, and the
level from which on that is enough. Both are counts of draws. A cell has at least ``count`` draws within a loss if the
loss is at least the ``count``-th smallest of its drawn losses. So the page has, for each cell, those order statistics
at the counts at which something that it says changes: the percent that is shown, and the levels. With very many cells
the page has fewer of them and says that other percentages are interpolated; levels are exact always. They are in single
precision, in which ``peftbench.results.answer.losses`` compares. Numbers that decide are texts with all their digits,
as other numbers of the page are rounded.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from peftbench.report.collect import MEAN, Results
from peftbench.report.derived.answer import Answer, costs_of
from peftbench.report.names import renamed
from peftbench.report.notes import answer as notes
from peftbench.report.notes import lacking
from peftbench.results.answer.decision import ONE_SEED
from peftbench.results.answer.losses import LEVELS_AT, SURE, Losses
from peftbench.results.crossed_effects.model import Outcomes, difference

ROOM = 150_000
"""Order statistics of all cells and tasks together, at four bytes each; with more, percentages are interpolated."""
_FEWEST = 12
FIRST = round(1000 * SURE)
"""The lowest level in thousandths."""


def costs(results: Results) -> dict[str, Any]:
    """Return what every tuned cell costs, by its place; None for the untuned base model."""
    found = costs_of(results, MEAN)
    reserves = [cost.reserve_bytes for cost in found.values()]
    each = [found.get(cell.name) for cell in results.cells]
    return {
        "no_times": notes.NO_TIMES,
        "unknown_memory": notes.UNKNOWN_MEMORY,
        "unknown_time": notes.UNKNOWN_TIME,
        "more_seeds": notes.MORE_SEEDS,
        "beside_tensors": notes.BESIDE_TENSORS if any(reserves) else "",
        "reserve": None if None in reserves else max(filter(None, reserves), default=0),
        "needs": [one and _exact(one.needs_bytes) for one in each],
        "peak": [one and _exact(one.peak_train_bytes) for one in each],
        "seconds": [one and _exact(one.train_seconds) for one in each],
        "paid": [one and notes.paid(one) for one in each],
        "beside": [one and " ".join(notes.beside(one)) for one in each],
    }


def task(results: Results, found: Answer, room: int) -> dict[str, Any] | None:
    """Return what decides about a task; None if no cell can be judged.

    Args:
        results: of which the answer is.
        found: the answer to the default question.
        room: order statistics that each cell may have.
    """
    losses, decision = found.decision.losses, found.decision
    if losses is None:
        return None
    places = {cell.name: place for place, cell in enumerate(results.cells)}
    refused = decision.status == "refused"  # for every question: only probabilities differ
    draws = losses.drawn.shape[1]
    enough = [] if refused else [_enough(thousandths / 1000, draws) for thousandths in range(FIRST, 1001)]
    counts, exact_from = _counts(draws, room, enough)
    stored = results.stored_outcomes(results.tasks if found.task == MEAN else (found.task,))

    def named(text: str) -> str:
        return renamed(text, found.names)

    return {
        "cells": [places[name] for name in losses.names],
        "refused": refused,
        "draws": draws,
        "counts": counts,
        "exact_from": exact_from,
        "levels": [] if refused else [(at, _exact(_level(losses, at))) for at in LEVELS_AT],
        "enough": enough,
        "statistics": base64.b64encode(_statistics(losses, counts)).decode(),
        "scores": [_exact(float(score)) for score in losses.scores],
        "texts": [notes.percent(found, name) for name in losses.names],
        "below": _below(losses, stored),
        "base": _exact(decision.base_bound),
        "not_judged": [
            [places[name], _exact(value), notes.percent(found, name), decision.left_out[name] == ONE_SEED]
            for name, value in sorted(decision.not_judged.items(), key=lambda item: -item[1])
        ],
        "no_times": notes.no_times(found),
        "busy": found.busy is not None,
        "left_out": [named(text) for text in lacking.not_judged(found)],
        "unfinished": [named(text) for text in lacking.unfinished(found)],
        "finish": [f"{text[:-1]}." for text in lacking.finishing(found)],
    }


def _exact(value: float | None) -> str | None:
    """Return a number as a text that JavaScript reads as the same number."""
    return None if value is None or math.isnan(value) else repr(float(value))


def _statistics(losses: Losses, counts: Sequence[int]) -> bytes:
    """Return the drawn losses of each cell at these counts, the smallest being the first, in single precision."""
    drawn = np.sort(losses.drawn.max(axis=0) - losses.drawn, axis=1)
    return drawn[:, np.asarray(counts) - 1].astype("<f4").tobytes()


def _counts(draws: int, room: int, levels: Iterable[int]) -> tuple[list[int], float | None]:
    """Return the counts of draws at which something changes, and the probability from which on percentages are exact.

    That is 0 for all, and None if all are interpolated.
    """
    shown = list(_changes(draws))
    if room >= len(shown):
        return sorted({*shown, *levels}), 0
    # what a cell that may be the answer says is exact as long as there is room; unlikely ones are interpolated
    high = [count for count in shown if 2 * count >= draws]
    exact = high if len(high) + _FEWEST <= room else []
    rest = shown[: len(shown) - len(exact)]
    places = np.unique(np.linspace(0, len(rest) - 1, max(room - len(exact), _FEWEST)).round().astype(int))
    return sorted({*exact, *(rest[place] for place in places), *levels}), 0.5 if exact else None


def _enough(share: float, draws: int) -> int:
    """Return the smallest count of draws whose share reaches another one."""
    first = max(1, math.floor(share * draws) - 1)
    return next(count for count in range(first, draws + 1) if count / draws >= share)


def _level(losses: Losses, at: float) -> float:
    """Return the level at a loss of ``LEVELS_AT``; below the next loss no cell may reach any, which spares its time."""
    after = LEVELS_AT[min(LEVELS_AT.index(at) + 1, len(LEVELS_AT) - 1)]
    return losses.level(at) if (losses.probability(after) >= SURE).any() else SURE


def _changes(draws: int) -> Iterable[int]:
    """Yield the counts of draws from which on a share is shown as another percent, in the answer or in the table."""
    before: tuple[str, bool, bool, bool] | None = None
    for count in range(1, draws + 1):
        share = count / draws
        now = (f"{100 * share:.0f}", share < 0.01, share > 0.99, count == draws)
        if now != before:
            yield count
        before = now


def _below(losses: Losses, stored: dict[str, Outcomes | str]) -> list[str]:
    """Return how far each cell is below the best, in words; empty for the best."""
    best = losses.names[losses.leader]
    found = []
    for name in losses.names:
        one, other = stored[best], stored[name]
        known = isinstance(one, Outcomes) and isinstance(other, Outcomes) and name != best
        found.append(notes.loss(difference(one, other)) if known else "")  # type: ignore[arg-type]
    return found
