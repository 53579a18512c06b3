"""Forgetting: loss on held-out general text before and after training, per cell, from the raw losses per text.

A cell's forgetting is a ratio of sums over the texts, D = sum of nats gained / sum of tokens. Its standard error is
that of linearized values per text, (nats - D tokens) / mean tokens + D, whose mean is D (Cochran 1977, Sampling
Techniques, chapter 6), in the crossed random-effects model of seeds and texts: texts are paired before and after,
seeds belong to training alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import log

import numpy as np

from peftbench.report.collect import Cell, Results, read_json
from peftbench.results.crossed_effects.model import LARGEST, Array, Estimate, Outcomes, difference


@dataclass(frozen=True)
class Retained:
    """A cell with the raw losses of its texts in nats; those before training are means over its trials."""

    cell: Cell
    tokens: Array
    """(texts,)"""
    before: Array
    """(texts,)"""
    after: Array | None
    """(seeds, texts); None for the untuned base model."""

    @property
    def loss_before(self) -> float:
        """In nats per token."""
        return float(self.before.sum() / self.tokens.sum())

    @property
    def loss_after(self) -> float | None:
        """In nats per token, the mean over seeds."""
        return None if self.after is None else float(self.after.mean(axis=0).sum() / self.tokens.sum())

    @cached_property
    def change(self) -> Estimate | None:
        """Forgetting in nats per token with its interval.

        None for the untuned base model, for a single text, and if a loss is not finite.
        """
        if self.after is None or len(self.tokens) < 2 or not (np.abs(self.after) <= LARGEST).all():
            return None
        rate = (self.loss_after or 0.0) - self.loss_before
        after = (self.after - rate * self.tokens) / self.tokens.mean() + rate
        return difference(Outcomes.of(self.before[None] / self.tokens.mean(), seedless=True), Outcomes.of(after))

    def bits_per_byte(self, loss: float | None) -> float | None:
        """Return a loss in nats per token as bits per UTF-8 byte; None if the bytes are not known."""
        size = self.cell.mean("retention_bytes")
        return None if loss is None or not size else loss * float(self.tokens.sum()) / size / log(2)


def retained(results: Results) -> tuple[Retained, ...]:
    """Return the finished cells whose trials were all measured on the same texts, in the comparison table's order."""
    found = []
    for cell in results.finished:
        raw = [read_json(row.get("retention_json")) for row in cell.ok_rows]
        if not raw or not all(one.get("tokens") == raw[0].get("tokens") and one.get("before") for one in raw):
            continue
        after = None if cell.is_base else np.asarray([one.get("after") or [] for one in raw], dtype=float)
        if after is None or after.shape == (len(raw), len(raw[0]["tokens"])):
            before = np.asarray([one["before"] for one in raw], dtype=float).mean(axis=0)
            tokens = np.asarray(raw[0]["tokens"], dtype=float)
            if tokens.sum() > 0 and (np.abs(before) <= LARGEST).all():
                found.append(Retained(cell, tokens, before, after))
    return tuple(found)
