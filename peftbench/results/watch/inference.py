"""Inference cost: how many times as long the tuned model takes as the bare base model, which runs in turns with it.

The ratio does not depend on how fast the machine is that night, and it is measured once for each cell, in repeats
within one process. What one process differs from another, the spread of the cells among each other says, if fewer than
half of them have changed; the repeats alone would make it too small. Few cells are judged by ``PROCESS_SD``.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from peftbench.results.crossed_effects.student import LEVEL
from peftbench.results.watch.findings import Cell, Finding, Interval, Sides, Verdict, finding, moved
from peftbench.results.watch.noise import Error, adjusted, larger, spread_over_cells
from peftbench.results.watch.quantities import Quantity

PROCESS_SD = 0.08
"""Standard deviation, from one process to another of unchanged code, of the change of such a ratio; its logarithm.
Measured: ``docs/statistics.md``."""
Repeats = Sequence[float]
"""Logarithm of the ratio in each repeat."""


def prefill(row: Mapping[str, Any]) -> Repeats:
    """Return the ratios of the time until the first tokens of a batch of prompts; none if it was not measured."""
    return _ratios(row, True, lambda times: times[0])


def decode(row: Mapping[str, Any]) -> Repeats:
    """Return the ratios of the time between two tokens, of one prompt; none if it was not measured."""
    return _ratios(row, False, lambda times: statistics.fmean(times[1:]) if times[1:] else math.nan)


READERS: Mapping[str, Callable[[Mapping[str, Any]], Repeats]] = {
    "prefill_times_base": prefill,
    "decode_times_base": decode,
}
"""How each quantity of inference cost is read from a row."""


def _ratios(row: Mapping[str, Any], batch: bool, seconds: Callable[[list[float]], float]) -> Repeats:
    try:
        raw = json.loads(row.get("inference_json") or "{}")
        prompts = str(raw.get("prompts")) if batch else "1"
        sides = [raw.get("seconds", {}).get(variant, {}).get(prompts, []) for variant in ("tuned", "bare")]
        pairs = [(float(seconds(tuned)), float(seconds(bare))) for tuned, bare in zip(*sides, strict=False)]
    except (TypeError, ValueError, AttributeError, IndexError):
        return ()
    return tuple(math.log(tuned / bare) for tuned, bare in pairs if tuned > 0 and bare > 0)


def judge(quantity: Quantity, cells: Mapping[Cell, tuple[Repeats, Repeats]], least: float) -> list[Finding]:
    """Return the verdicts on a ratio of inference cost.

    Args:
        quantity: the ratio.
        cells: by cell, the repeats of both sides, at least one of each.
        least: change up to which it is unchanged, a fraction.
    """
    margin = math.log1p(least)
    changes = {cell: statistics.fmean(new) - statistics.fmean(old) for cell, (old, new) in cells.items()}
    between = spread_over_cells(list(changes.values())) or Error(PROCESS_SD, math.inf)
    errors = {cell: larger(between, _of_repeats(*sides)) or between for cell, sides in cells.items()}
    p = adjusted({cell: errors[cell].beyond(change, margin) for cell, change in changes.items()})
    return [_finding(cell, quantity, cells[cell], changes[cell], errors[cell], p[cell], margin) for cell in cells]


def _of_repeats(old: Repeats, new: Repeats) -> Error | None:
    if min(len(old), len(new)) < 2:
        return None
    variance = statistics.variance(old) / len(old) + statistics.variance(new) / len(new)
    return Error(math.sqrt(variance), float(min(len(old), len(new)) - 1))


def _finding(
    cell: Cell,
    quantity: Quantity,
    sides: tuple[Repeats, Repeats],
    change: float,
    error: Error,
    p: float,
    margin: float,
) -> Finding:
    low, high = change - error.half_width, change + error.half_width
    verdict: Verdict = "cannot tell"
    reason: str | None = "the noise is too large for the least change that counts"
    if p < LEVEL:
        verdict, reason = moved(quantity, change), None
    elif tuple(sides[0]) == tuple(sides[1]) or (-margin <= low and high <= margin):  # a copy of the same folder
        verdict, reason = "unchanged", None
    old, new = (math.exp(statistics.fmean(side)) for side in sides)
    interval = Interval.of_logs(change, low, high)
    rule = "relative to the bare base model, beyond noise between processes"
    return finding(cell, quantity, verdict, rule, Sides(old, new, (1, 1)), interval, p, reason)
