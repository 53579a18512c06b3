"""Definitions of all quantities that the page shows."""

from __future__ import annotations

from typing import Any, get_args, get_type_hints

from peftbench.records import Category, Phase, TrialRow
from peftbench.records import units as fmt
from peftbench.records.phase import UNTRACKED, UNTRACKED_BAR
from peftbench.report.collect import Results
from peftbench.report.notes.scores import metric_words

DEFINED = {
    "trainable_parameters": "trainable parameters",
    "checkpoint_bytes": "checkpoint",
    "base_weights_bytes": "base weights",
    "peak_train_bytes": "peak train memory",
    "peak_evaluate_bytes": "peak evaluate memory",
    "tokens_per_second": "throughput",
    "train_seconds": "train time",
    "processed_tokens_per_second": "processed tokens/s",
    "loss_tokens_per_second": "loss-bearing tokens/s",
    "train_flops_per_token": "FLOPs per token",
    "device_flops_per_second": "MFU",
    "train_energy_joules": "energy",
    "untimed_seconds": "untimed",
    **{phase.column: phase.heading for phase in (Phase.ACCOUNT, Phase.CHECK, Phase.EVALUATE)},
    UNTRACKED: UNTRACKED_BAR[0],
    **{category.column: category.heading for category in Category},
    Category.BASE_WEIGHTS.column: "base weights at the peak",
}
"""Columns that the page defines, with their headings; the definition is that of the record that declares the column."""


def definitions(results: Results) -> tuple[tuple[str, str], ...]:
    """Return (quantity, definition) of everything that the page shows."""
    hints: dict[str, Any] = get_type_hints(TrialRow, include_extras=True)
    scores = [(task, _score(results, task)) for task in results.tasks]
    means = [("mean over tasks", "unweighted, per seed; then mean, spread and interval over seeds as for every score")]
    if len(results.tasks) < 2:
        means = []
    spread = (
        "±",
        "in the comparison and the figures: standard deviation over the seeds that ended ok (n - 1 in the "
        "denominator); in the tables of rank × precision: half width of the 95 % t-interval of the mean over those "
        "seeds; none for one seed",
    )
    bounds = (
        "[ ]",
        "95 % interval of the score for new seeds and new examples, from a crossed random-effects model of both",
    )
    front = (
        "on the front",
        "probability that no other cell has at least this cell's score at no higher cost, and is better in one of them "
        "(the Pareto front), for each cost that the heading names; from 4,000 draws of all scores around the measured "
        "ones, with the variation of new seeds and new examples",
    )
    near = (
        "P(within 2), ✓",
        "probability that the cell lies within 2 points of the best tuned cell on the headline score, for new seeds "
        "and new examples: its share of joint draws of all scores from the same model; ✓: known to lie within them, "
        "with a risk of at most 5 % of any false mark in the table",
    )
    stored = [(f"{heading} ({name})", get_args(hints[name])[1]) for name, heading in DEFINED.items()]
    return (*scores, *means, spread, bounds, near, front, *stored)


def _score(results: Results, task: str) -> str:
    score = results.score_record(task)
    metric, examples = score.get("metric"), score.get("examples")
    chance, majority = results.reference("chance", task), results.reference("majority", task)
    parts = [metric_words(str(metric or "score")), f"over {examples:,} examples" if isinstance(examples, int) else ""]
    marks = f"chance {fmt.percent(chance)}, majority answer {fmt.percent(majority)}"
    return f"{' '.join(filter(None, parts))}; {marks}"
