"""The answer: the cheapest cell that is good enough, or why there is none."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from scipy.special import stdtr, stdtrit  # type: ignore[import-untyped]

from peftbench.results.answer import LEAST_SEEDS
from peftbench.results.answer.losses import Losses, losses
from peftbench.results.answer.planning import Needed, needed
from peftbench.results.crossed_effects.model import Estimate, Outcomes, difference, score
from peftbench.results.crossed_effects.ranking import holm
from peftbench.results.crossed_effects.student import LEVEL

WITHIN = 2.0
"""The tolerated loss, points, if none is given."""
_NOTHING = 1e-12
"""Differences of scores up to this size are rounding."""
ONE_SEED = "it has one finished seed"
"""Why a cell is not judged, if more seeds of it would change that."""
_STEP = 0.005
_MOST_WITHIN = 0.5
"""Losses that are tried, fractions of 1, to say which loss the results can show."""

Status = Literal["answer", "cannot tell", "over budget", "refused"]
"""``answer``: a cell is good enough. ``cannot tell``: that takes more seeds or examples. ``over budget``: no cell
within the budgets is within the tolerated loss. ``refused``: the results do not support an answer."""
Refusal = Literal[
    "no tuned cell",
    "no scores",
    "no outcomes",
    "single seed",
    "all zero",
    "not above base",
    "not above majority",
    "not above chance",
    "no times",
    "smoke run",
]


@dataclass(frozen=True)
class Question:
    """What is asked of a folder of results."""

    within: float = WITHIN
    """The tolerated loss, points of the score."""
    budget_bytes: int | None = None
    """Training memory that a cell may need."""
    time_seconds: float | None = None
    """Training time that a cell may need."""
    task: str | None = None
    """None for the mean over tasks."""


@dataclass(frozen=True)
class Candidate:
    """A tuned cell that could be the answer."""

    name: str
    outcomes: Outcomes | None
    """None if they are not stored."""
    peak_train_bytes: float | None
    """Measured, the mean over seeds; None if it was not measured."""
    train_seconds: float | None
    """The mean over seeds; None if it was not measured, or on a busy machine only."""
    base: Outcomes | None = None
    """Outcomes of its untuned base model on the same examples; None if they are not stored."""
    why_none: str | None = None
    """Why there are no outcomes, in words; None if it is not known or there are some."""
    score: float | None = None
    """Mean score, a fraction of 1, for a cell without outcomes; None if it is not known."""
    needs_bytes: float | None = None
    """What a memory budget has to hold: the largest peak of any seed and, on a GPU, the part of the budget that is not
    for tensors; None if it is not known."""


@dataclass(frozen=True)
class Decision:
    """The answer to a question, or why there is none."""

    status: Status
    question: Question
    refusal: Refusal | None = None
    by_memory: str | None = None
    """The good enough cell within the budgets with the smallest peak of training memory."""
    by_time: str | None = None
    """The one with the shortest training time; None if the time of any of them is not known."""
    good: tuple[str, ...] = ()
    """All good enough cells within the budgets, the cheapest first."""
    losses: Losses | None = None
    allowed: tuple[str, ...] = ()
    """The judged cells within the budgets."""
    fits: str | None = None
    """The cell with the highest measured score within the budgets; None if none is."""
    fits_below_best: Estimate | None = None
    """Its score minus that of the best cell; None if it is the best."""
    needed: Needed | None = None
    shown: str | None = None
    """If no cell is known to lie within the tolerated loss: the cheapest known to lie within a larger one."""
    shown_within: float | None = None
    """That loss, points."""
    judged: tuple[str, ...] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Tuned cells that were not judged, with the reason."""
    without_memory: tuple[str, ...] = ()
    """Good enough cells whose memory was not measured."""
    base_bound: float | None = None
    """The smallest loss, a fraction of 1, within which of the best cell the untuned base model is known to lie; None if
    its outcomes are not stored."""
    not_judged: Mapping[str, float] = field(default_factory=dict)
    """Scores, fractions of 1, of the cells that were not judged."""

    @property
    def base_within(self) -> bool:
        """Whether there is an answer and the untuned base model too is known to lie within the tolerated loss."""
        within = self.question.within / 100
        return self.status == "answer" and self.base_bound is not None and self.base_bound <= within

    @property
    def best(self) -> str | None:
        """The cell with the highest measured score."""
        return None if self.losses is None else self.losses.names[self.losses.leader]

    @property
    def may_be_best(self) -> tuple[str, ...]:
        """The cells that were not judged and score more than the best minus the tolerated loss, the highest first."""
        if self.losses is None:
            return ()
        least = self.losses.scores[self.losses.leader] - self.question.within / 100
        near = {name: value for name, value in self.not_judged.items() if value > least}
        return tuple(sorted(near, key=lambda name: -near[name]))

    @property
    def probabilities(self) -> dict[str, float]:
        """The probability that each judged cell lies within the tolerated loss of the best."""
        if self.losses is None:
            return {}
        found = self.losses.probability(self.question.within / 100)
        return dict(zip(self.losses.names, map(float, found), strict=True))


def decide(
    candidates: Sequence[Candidate],
    question: Question,
    levels: Mapping[Literal["majority", "chance"], float | None] | None = None,
) -> Decision:
    """Return which cell to take.

    The loss of a cell is against the best of all judged cells, within the budgets or not. Budgets decide only which
    cells can be the answer.

    Args:
        candidates: the finished tuned cells.
        question: what is asked.
        levels: score of the majority answer and of chance, fractions of 1; None where there is none.
    """
    if not candidates:
        return Decision("refused", question, "no tuned cell")
    judged = {one.name: own for one in candidates if (own := one.outcomes) is not None and own.seeds >= LEAST_SEEDS}
    left_out = {one.name: _why_left_out(one) for one in candidates if one.name not in judged}
    if not judged:
        refusal: Refusal = "single seed"
        if all(one.outcomes is None for one in candidates):
            refusal = "no scores" if all(one.score is None for one in candidates) else "no outcomes"
        return Decision("refused", question, refusal, left_out=left_out)
    if not any(abs(value) > _NOTHING for _, value in _scores(candidates)):
        return Decision("refused", question, "all zero", left_out=left_out)
    chosen = [one for one in candidates if one.name in judged]
    found = losses(judged)
    known = {
        "judged": tuple(judged),
        "left_out": left_out,
        "base_bound": _base_bound(chosen, judged, found.names[found.leader]),
        "not_judged": dict(_scores(one for one in candidates if one.name not in judged)),
    }
    for what, p_values in _tests(chosen, levels or {}).items():
        if p_values and min(holm(p_values)) >= LEVEL:
            return Decision("refused", question, what, losses=found, **known)  # type: ignore[arg-type]
    if question.time_seconds is not None and all(one.train_seconds is None for one in chosen):
        return Decision("refused", question, "no times", losses=found, **known)  # type: ignore[arg-type]
    decided = _decided(chosen, judged, found, question, known)
    if decided.status == "answer" and decided.may_be_best:
        return replace(decided, status="cannot tell", by_memory=None, by_time=None, good=(), without_memory=())
    return decided


def _decided(
    chosen: Sequence[Candidate],
    judged: Mapping[str, Outcomes],
    found: Losses,
    question: Question,
    known: Mapping[str, object],
) -> Decision:
    """Return the decision if there is no reason to refuse one."""
    within, best = question.within / 100, found.names[found.leader]
    allowed = [one for one in chosen if _fits(one, question)]
    fits = max(allowed, key=lambda one: judged[one.name].mean).name if allowed else None
    below = None if fits in (None, best) else difference(judged[best], judged[fits])  # type: ignore[index]
    names = {name for name, good in zip(found.names, found.good_enough(within), strict=True) if good}
    good = _by_cost([one for one in allowed if one.name in names], judged, "peak_train_bytes")
    common = {"losses": found, "fits": fits, "fits_below_best": below, **known}
    common["allowed"] = tuple(one.name for one in allowed)
    if good:
        first = good[0]
        timed = all(one.train_seconds is not None for one in good)
        answer = Decision(
            "answer",
            question,
            by_memory=first.name if first.peak_train_bytes is not None else None,
            by_time=_by_cost(good, judged, "train_seconds")[0].name if timed else None,
            good=tuple(one.name for one in good),
            without_memory=tuple(one.name for one in good if one.peak_train_bytes is None),
            **common,  # type: ignore[arg-type]
        )
        return answer
    hopeful = [one.name for one in allowed if judged[best].mean - judged[one.name].mean <= within]
    shown, shown_within = _shown(allowed, judged, found, within)
    told = {"shown": shown, "shown_within": shown_within, **common}
    if not hopeful:
        return Decision("over budget", question, **told)  # type: ignore[arg-type]
    return Decision("cannot tell", question, needed=needed(judged, hopeful, within), **told)  # type: ignore[arg-type]


def _scores(cells: Iterable[Candidate]) -> Iterable[tuple[str, float]]:
    for one in cells:
        value = one.score if one.outcomes is None else one.outcomes.mean
        if value is not None and not math.isnan(value):
            yield one.name, value


def _why_left_out(one: Candidate) -> str:
    if one.outcomes is not None:
        return ONE_SEED
    return one.why_none or "no outcomes of its examples are stored"


def _fits(one: Candidate, question: Question) -> bool:
    """Return whether a cell is known to stay within the budgets."""
    pairs = ((one.needs_bytes, question.budget_bytes), (one.train_seconds, question.time_seconds))
    return all(limit is None or (cost is not None and cost <= limit) for cost, limit in pairs)


def _by_cost(
    cells: Iterable[Candidate], judged: Mapping[str, Outcomes], cost: Literal["peak_train_bytes", "train_seconds"]
) -> list[Candidate]:
    """Return cells by a cost, unknown ones last; of equal ones first the one with the higher score."""

    def order(one: Candidate) -> tuple[bool, float, float]:
        paid: float | None = getattr(one, cost)
        return paid is None, paid or 0.0, -judged[one.name].mean

    return sorted(cells, key=order)


def _shown(
    allowed: Sequence[Candidate], judged: Mapping[str, Outcomes], found: Losses, within: float
) -> tuple[str | None, float | None]:
    """Return the cheapest cell within the smallest loss that the results can show for any, and that loss in points."""

    def good(steps: int) -> list[Candidate]:
        names = {n for n, good in zip(found.names, found.good_enough(within + steps * _STEP), strict=True) if good}
        return _by_cost([one for one in allowed if one.name in names], judged, "peak_train_bytes")

    most = int(_MOST_WITHIN / _STEP)
    # not by bisection: the level rises with the loss, so a cell may be good enough at a smaller one only
    steps = next((steps for steps in range(1, most + 1) if good(steps)), None) if good(most) else None
    return (None, None) if steps is None else (good(steps)[0].name, 100 * (within + steps * _STEP))


def _tests(
    chosen: Sequence[Candidate], levels: Mapping[Literal["majority", "chance"], float | None]
) -> dict[Refusal, list[float]]:
    """Return one-sided p values of each cell being better than the untuned base model, the majority and chance."""
    found: dict[Refusal, list[float]] = {}
    cells = [(one.outcomes, one.base) for one in chosen if one.outcomes is not None]
    gains = [difference(base, cell) for cell, base in cells if base is not None]
    found["not above base"] = [_above(gain.value, gain) for gain in gains]
    scores = [score(cell) for cell, _ in cells]
    refusals: dict[Literal["majority", "chance"], Refusal] = {
        "majority": "not above majority",
        "chance": "not above chance",
    }
    for name, refusal in refusals.items():
        level = levels.get(name)
        found[refusal] = [] if level is None else [_above(one.value - level, one) for one in scores]
    return found


def _above(value: float, found: Estimate) -> float:
    """Return the one-sided p value of the hypothesis that a value, with the error of an estimate, is not above 0."""
    if found.standard_error <= 0 or abs(value) <= _NOTHING:
        return 0.0 if value > _NOTHING else 1.0
    return float(stdtr(min(found.degrees_of_freedom, 1e9), -value / found.standard_error))


def _base_bound(chosen: Sequence[Candidate], judged: Mapping[str, Outcomes], best: str) -> float | None:
    """Return the upper end of the one-sided 95 % interval of what the best cell gains over its untuned base model."""
    base = next(one.base for one in chosen if one.name == best)
    if base is None:
        return None
    gain = difference(base, judged[best])
    if gain.standard_error <= 0:
        return gain.value + _NOTHING
    return gain.value + gain.standard_error * float(stdtrit(min(gain.degrees_of_freedom, 1e9), 1 - LEVEL))
