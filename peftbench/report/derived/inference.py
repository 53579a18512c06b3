"""Inference cost of tuned models, from the raw times of their trials."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from peftbench.report.collect import Cell, Results, read_json
from peftbench.results import seeds
from peftbench.results.busy_machine import quiet_rows
from peftbench.results.rows import is_number

_RAISED = re.compile(r"[\w.]*(?:Error|Exception|Interrupt|Warning)(?: in [^:]*)?:")
"""The beginning of a reason that an exception is: its type. Other reasons are of methods that have no such part."""
_REFUSED = re.compile(
    r"^NotImplementedError\b|cannot merge|impossible to merge|not (?:yet )?(?:supported|implemented)", re.I
)
"""What peft raises of adapters that it cannot merge."""
FIRST_TOKEN, LATER_TOKENS = slice(1), slice(1, None)


@dataclass(frozen=True)
class Ratio:
    """Time relative to the base model without the method: geometric mean over repeats and its 95 % interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Measured:
    """A cell whose inference cost was measured, with the raw values of its trials."""

    cell: Cell
    raw: tuple[dict[str, Any], ...]
    """Of all finished trials."""
    quiet: tuple[dict[str, Any], ...]
    """Of those that were not measured on a busy machine; times are of these."""

    def repeats(self, variant: str, prompts: str) -> list[list[float]]:
        """Return, for every repeat, the seconds until the first token and between the following tokens.

        Args:
            variant: ``tuned``, ``bare`` (the base model, measured alternately with it) or ``merged``.
            prompts: ``1`` or ``batch``: number of prompts in the forward pass.
        """
        found: list[list[float]] = []
        for raw in self.quiet:
            key = "1" if prompts == "1" else str(raw.get("prompts"))
            found += raw.get("seconds", {}).get(variant, {}).get(key, [])
        return found

    def latency(self, part: slice) -> tuple[float, float, float] | None:
        """Return first quartile, median and third quartile of a latency of one prompt, seconds; None if not measured.

        Args:
            part: of a repeat's tokens: ``FIRST_TOKEN`` or ``LATER_TOKENS``.
        """
        raw = sorted(seconds for repeat in self.repeats("tuned", "1") for seconds in repeat[part])
        if not raw:
            return None
        low, middle, high = statistics.quantiles(raw, n=4, method="inclusive") if len(raw) > 1 else raw * 3
        return low, middle, high

    @cached_property
    def prefill(self) -> Ratio | None:
        """Relative time until the first tokens of a batch."""
        return self._ratio("batch", lambda repeat: repeat[0])

    @cached_property
    def decode(self) -> Ratio | None:
        """Relative time between two tokens, one prompt."""
        return self._ratio("1", lambda repeat: statistics.fmean(repeat[1:]) if repeat[1:] else math.nan)

    def _ratio(self, prompts: str, seconds: Callable[[list[float]], float]) -> Ratio | None:
        pairs = zip(self.repeats("tuned", prompts), self.repeats("bare", prompts), strict=False)
        times = [(seconds(tuned), seconds(bare)) for tuned, bare in pairs]
        found = seeds.paired_interval(math.log(tuned / bare) for tuned, bare in times if tuned > 0 and bare > 0)
        if found is None:
            return None
        mean, half = found
        return Ratio(math.exp(mean), math.exp(mean - half), math.exp(mean + half))

    @property
    def merges(self) -> bool:
        """Whether it was merged into the base model's weights."""
        return any(is_number(row.get("merged_decoded_token_seconds")) for row in self.cell.ok_rows)

    @property
    def cannot_merge(self) -> str | None:
        """Why it cannot be merged into the base model's weights; None if it can, or if only the measurement failed."""
        reason = self.reason("merge")
        return reason if reason and (_REFUSED.search(reason) or not _RAISED.match(reason)) else None

    def reason(self, part: str) -> str | None:
        """Return why a part was not measured; None if it was."""
        return next((raw["reasons"][part] for raw in self.raw if part in raw.get("reasons", {})), None)


def measured(results: Results) -> tuple[Measured, ...]:
    """Return the cells with measured inference cost, in the order of the comparison table."""
    return tuple(found for cell in results.finished if (found := of_cell(cell)).raw)


def of_cell(cell: Cell) -> Measured:
    """Return what was measured of a cell's inference cost; without raw values if nothing was."""

    def raw(rows: Iterable[Mapping[str, Any]]) -> tuple[dict[str, Any], ...]:
        return tuple(one for row in rows if (one := read_json(row.get("inference_json"))))

    return Measured(cell, raw(cell.ok_rows), raw(quiet_rows(cell.ok_rows, "inference")))
