"""The record of a trial's result on one task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Score:
    """A trial's result on one task."""

    task: str
    metric: str
    """Name of the headline metric: ``accuracy``, ``exact_match``, ``rouge_l``, ``probability_per_byte``, ..."""
    value: float
    """Headline metric as a fraction of 1: the mean outcome over examples."""
    standard_error: float | None
    """Over examples; None where the metric has none."""
    metrics: Mapping[str, float]
    """All metrics of the task, the headline included. Fractions of 1, but for ``matthews`` (-1 to 1), ``perplexity``,
    ``bits_per_byte`` (lower is better) and what a task of lm-eval reports in its own units."""
    examples: int
    chance: float | None
    """Expected score of a uniform guess; None where it is not defined."""
    majority: float | None
    """Score of always giving the commonest answer of the scored split; None where answers are texts of their own."""
    format_failures: int | None
    """Outputs that could not be read as an answer at all, apart from wrong answers; None where none is decoded."""
    truncated_prompts: int
    """Prompts cut on the left to fit ``max_length``."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """How it was scored: dtype, batch size, few-shot examples, and where text is decoded its stop strings and length;
    of a task of lm-eval its name and version too."""
