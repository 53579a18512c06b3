"""Training rates of trials: steady steps, achieved FLOP/s, padding, samples per joule, and which rates differ.

Computed from stored rows whenever they are needed, never stored.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from peftbench.report.collect import Cell, Results
from peftbench.results import seeds
from peftbench.results.crossed_effects.student import t_quantile
from peftbench.results.rows import is_number

_BATCHES = 10
"""Number of batches of consecutive steps behind a rate's interval within one trial. Neighbouring steps are not
independent, and more than 10 to 30 batches gain little (Schmeiser 1982, Operations Research 30:556)."""
LEAST_STEADY = 3
"""A rate needs at least this many steady steps."""
RATE = "tokens_per_second"
"""Column of the training rate: non-padding data tokens per second."""


@dataclass(frozen=True)
class Steady:
    """Step times of one trial, without the untimed warm-up steps."""

    n: int
    """Number of steady steps."""
    median: float
    """Seconds per step."""
    p5: float
    p95: float
    rate: float
    """Non-padding data tokens per second."""
    half_width: float | None
    """Half width of the rate's 95 % interval over this trial's steps; None for too few steps."""


def steady(steps: Any) -> Steady | None:
    """Summarize the steady steps of one trial; None if it has none.

    Args:
        steps: the trial's rows of ``steps``, in order.
    """
    timed = steps[~steps["untimed"].astype(bool)]
    if not len(timed):
        return None
    seconds, tokens = timed["seconds"].astype(float), timed["nonpadding_tokens"].astype(float)
    p5, median, p95 = seconds.quantile([0.05, 0.5, 0.95])
    half = rate_half_width(tokens.tolist(), seconds.tolist())
    return Steady(len(timed), float(median), float(p5), float(p95), tokens.sum() / seconds.sum(), half)


def rate_half_width(tokens: Sequence[float], seconds: Sequence[float]) -> float | None:
    """Return the half width of the 95 % interval of a rate over a trial's steps; None for fewer than three steps.

    Batch means of a ratio: with sums T_i and S_i of tokens and seconds over k consecutive runs of steps and the rate
    R = sum T / sum S, the standard error is sqrt(sum (T_i - R S_i)^2 / (k (k - 1))) / mean S, with Student's t of k - 1
    degrees of freedom (Cochran 1977, Sampling Techniques, chapter 6, on batches).
    """
    n = len(seconds)
    if n < LEAST_STEADY:
        return None
    k = min(_BATCHES, n)
    ends = [n * i // k for i in range(k + 1)]
    sums = [(math.fsum(tokens[a:b]), math.fsum(seconds[a:b])) for a, b in itertools.pairwise(ends)]
    rate = math.fsum(tokens) / math.fsum(seconds)
    error = math.sqrt(math.fsum((t - rate * s) ** 2 for t, s in sums) / (k * (k - 1))) / (math.fsum(seconds) / k)
    return t_quantile(k - 1) * error


def achieved(row: Mapping[str, Any]) -> float | None:
    """Return the achieved FLOP/s of training, matrix products only."""
    return _product(row, "train_flops_per_token", "processed_tokens_per_second")


def utilization(row: Mapping[str, Any]) -> float | None:
    """Return model FLOPs utilization: achieved FLOP/s over the matrix-product rate measured on the same device."""
    done, rate = achieved(row), known(row, "device_flops_per_second")
    return done / rate if done is not None and rate else None


def padding(row: Mapping[str, Any], virtual: int) -> float | None:
    """Return the share of padding among the data positions in training.

    Args:
        row: of ``trials``.
        virtual: virtual tokens that the method adds to each example.
    """
    processed, data, examples = (known(row, n) for n in ("processed_tokens", "nonpadding_tokens", "examples_seen"))
    if processed is None or data is None or (virtual and examples is None):
        return None
    positions = processed - virtual * (examples or 0)
    return 1 - data / positions if positions else None


def samples_per_joule(row: Mapping[str, Any]) -> float | None:
    """Return training examples per joule; None if the energy counter covered other trials or processes too."""
    joules, examples = known(row, "train_energy_joules"), known(row, "examples_seen")
    several_workers = row.get("energy_source") == "rapl" and (known(row, "workers") or 1) > 1
    shared = several_workers or known(row, "other_gpu_processes")
    return None if shared or not joules or examples is None else examples / joules


def known(row: Mapping[str, Any], name: str) -> float | None:
    """Return a number of a row; None if the column is missing, or its value is no number."""
    value = row.get(name)
    return float(value) if is_number(value) else None  # type: ignore[arg-type]


def _product(row: Mapping[str, Any], one: str, other: str) -> float | None:
    values = known(row, one), known(row, other)
    return None if values[0] is None or values[1] is None else values[0] * values[1]


def trial_steps(results: Results, key: str) -> Steady | None:
    """Summarize the steady steps of a stored trial; None if its steps were not stored."""
    steps = results.steps
    return steady(steps[steps["key"] == key].sort_values("step")) if len(steps) else None


def half_width(cell: Cell, steps: Sequence[Steady]) -> float | None:
    """Return the half width of the 95 % interval of a cell's rate: over its trials, or over the steps of a single one.

    Args:
        cell: a cell that trained.
        steps: of its trials.
    """
    spread = cell.summary.spreads.get(RATE)
    if spread is None or spread.n > 1:
        return None if spread is None else spread.half_width
    return steps[0].half_width if steps else None


@dataclass(frozen=True)
class RatePairs:
    """The pairs of cells whose rates can be compared, and those whose rates do not differ."""

    known: int
    """Pairs for which an interval of the difference is known."""
    alike: tuple[tuple[Cell, Cell], ...]
    """Pairs whose rates differ by less than the 95 % interval of their difference; the closest pair first."""


def compare_rates(results: Results) -> RatePairs:
    """Compare the training rates of all pairs of tuned cells."""
    cells = [cell for cell in results.tuned if cell.mean(RATE) is not None]
    halves = {cell.name: half_width(cell, _single_trial(results, cell)) for cell in cells}
    pairs = [(one, other, _difference(one, other, halves)) for one, other in itertools.combinations(cells, 2)]
    known_pairs = [(one, other, *found) for one, other, found in pairs if found]
    alike = [(gap / (one.mean(RATE) or 1.0), one, other) for one, other, gap, half in known_pairs if gap < half]
    alike.sort(key=lambda found: found[0])
    return RatePairs(len(known_pairs), tuple((one, other) for _, one, other in alike))


def _single_trial(results: Results, cell: Cell) -> list[Steady]:
    found = trial_steps(results, cell.ok["key"].iloc[0]) if len(cell.ok) == 1 else None
    return [found] if found else []


def _difference(one: Cell, other: Cell, halves: Mapping[str, float | None]) -> tuple[float, float] | None:
    """Return the absolute difference of two rates and the half width of its 95 % interval; None if not known."""
    a, b = one.summary.spreads[RATE], other.summary.spreads[RATE]
    welch = seeds.welch_interval(a, b)
    if welch is not None:
        return abs(welch[0]), welch[1]
    first, second = halves[one.name], halves[other.name]
    return None if first is None or second is None else (abs(a.mean - b.mean), math.hypot(first, second))
