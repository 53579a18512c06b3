"""Comparing scores of which only the standard error over examples is known, not the outcome of each example.

The two samples then count as independent, although the examples are the same, so the test is weaker than a paired one;
and as there is one run of each, nothing is known about the variation between runs. So even a difference that is
significant here may be one between two runs of the same method.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from peftbench.results.crossed_effects.ranking import holm
from peftbench.results.crossed_effects.student import LEVEL, p_value, t_quantile


@dataclass(frozen=True)
class Sampled:
    """A score over a sample of examples."""

    score: float
    """A fraction of 1."""
    standard_error: float
    """Over the examples, a fraction of 1."""


@dataclass(frozen=True)
class AgainstBest:
    """Every score against the highest one."""

    best: str
    like_best: tuple[str, ...]
    """Those that do not differ from it significantly (Holm-adjusted), the highest first, itself left out."""
    half_width: float
    """Half width of the 95 % interval of the difference between the two highest, a fraction of 1."""


def against_best(scores: Mapping[str, Sampled], level: float = LEVEL) -> AgainstBest | None:
    """Compare each score with the highest by a two-sided z test; None for fewer than two scores.

    Args:
        scores: by name.
        level: probability of any false positive among the comparisons.
    """
    if len(scores) < 2:
        return None
    ordered = sorted(scores, key=lambda name: (-scores[name].score, name))
    best, others = ordered[0], ordered[1:]
    adjusted = holm([p_of_difference(scores[best], scores[name]) for name in others])
    alike = tuple(name for name, p in zip(others, adjusted, strict=True) if p >= level)
    return AgainstBest(best, alike, half_width(scores[best], scores[others[0]]))


def p_of_difference(one: Sampled, other: Sampled) -> float:
    """Return the two-sided p value of the difference of two scores of independent samples."""
    return p_value(one.score - other.score, math.hypot(one.standard_error, other.standard_error), math.inf)


def half_width(one: Sampled, other: Sampled) -> float:
    """Return the half width of the 95 % interval of the difference of two scores of independent samples."""
    return t_quantile(math.inf) * math.hypot(one.standard_error, other.standard_error)
