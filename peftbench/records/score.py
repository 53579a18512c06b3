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
    """Standard error over examples; None if the metric has none."""
    metrics: Mapping[str, float]
    """All metrics of the task, the headline included. Fractions of 1, except ``matthews``, ``pearson`` and ``spearman``
    (-1 to 1), ``nist`` (from 0), ``cider`` (0 to 10), ``perplexity``, ``bits_per_byte`` and ``mean_squared_error``
    (lower is better), and metrics of lm-eval tasks, which have units of their own."""
    examples: int
    """Number of scored examples."""
    chance: float | None
    """Expected score of a uniform guess; None if it is not defined."""
    majority: float | None
    """Score of always giving the most common answer of the scored split; None if the answers are free text."""
    format_failures: int | None
    """Outputs that could not be read as an answer, as opposed to wrong answers; None if no text is decoded."""
    truncated_prompts: int | None
    """Prompts cut on the left to fit ``max_length``; None if not known, as of imported results."""
    lost_prompts: int | None = None
    """Those of them of which nothing was left, before the longest choice; None in older results."""
    cut_answers: int | None = None
    """Decoded answers that reached the largest number of new tokens before their end; None if no text is decoded."""
    targets: Mapping[str, Any] | None = None
    """How many targets decoding can give, as ``tasks.reach.Reach``; None if no text is decoded, and for lm-eval's."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """How it was scored: dtype, batch size, few-shot examples; stop strings and length if text is decoded; the name and
    version of an lm-eval task."""
