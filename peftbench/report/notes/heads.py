"""Notes on heads for whole texts: their parameters, which count apart, and what is not measured with them."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from peftbench.models.causality import NOISE
from peftbench.records.wording import series
from peftbench.report.collect import Results, read_json

_WHOLE = {
    "matthews": "Matthews' correlation",
    "f1_macro": "macro F1",
    "pearson": "Pearson's correlation",
}
"""Headline metrics of a whole split, whose outcomes per example are influences."""


def notes(results: Results) -> Iterable[str]:
    """Yield what a head means for the numbers of a table; nothing without one."""
    counts = results.trials["head_parameters"].dropna().unique()
    if not len(counts):
        return
    size = f"{min(counts):,.0f}" + (f" to {max(counts):,.0f}" if len(counts) > 1 else "")
    yield (
        f"Head for whole texts: {size} parameters, which train with every method, begin at the same values for a seed "
        "and count in no number of trainable parameters. The untuned base model has no trained head, so it has no "
        "score. Loss on general text and the cost of generation are not measured."
    )
    yield from _influences(results)
    read = {c.name: [row["padding_influence"] for row in c.rows] for c in results.tuned}
    leaks = [name for name, values in read.items() if any(pd.notna(v) and v > NOISE for v in values)]
    if leaks:
        yield (
            f"Padding is read by {series(tuple(leaks))}: the logits of a text depend on the other texts of its batch, "
            "so scores depend on the batch size."
        )


def _influences(results: Results) -> Iterable[str]:
    metrics: dict[str, None] = {}
    for text in results.trials["scores_json"].dropna():
        metrics |= {score["metric"]: None for score in read_json(text).values() if score.get("metric") in _WHOLE}
    for metric in metrics:
        yield (
            f"{_WHOLE[metric][0].upper()}{_WHOLE[metric][1:]} is a number of the whole split. Its intervals and tests "
            "come from each example's influence on it (infinitesimal jackknife), which holds for many examples."
        )
