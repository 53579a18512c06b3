"""Training rates of trials: steady steps, achieved FLOP/s, padding, samples per joule, and which rates differ.

Computed from stored rows whenever they are needed, never stored.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from peftbench.report.collect import Cell, Results
from peftbench.results.busy_machine import beside_others
from peftbench.results.crossed_effects import student
from peftbench.results.crossed_effects.student import Array, t_quantile
from peftbench.results.rows import is_number
from peftbench.results.seeds import Spread

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
    """Seconds per step; it and the percentiles are NaN if a stored row stands for several steps."""
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
    return _steady(*_measured(steps))


def _measured(steps: Any) -> list[Array]:
    """Return the columns that rates need; a row of older results stands for one step."""
    found = [steps[name].to_numpy(np.float64) for name in ("untimed", "seconds", "nonpadding_tokens")]
    covered = steps["covered_steps"].to_numpy(np.float64) if "covered_steps" in steps else np.full(len(steps), np.nan)
    return [*found, np.where(np.isnan(covered), 1.0, covered)]


def _steady(untimed: Array, seconds: Array, tokens: Array, covered: Array) -> Steady | None:
    kept = untimed == 0
    seconds, tokens, covered = seconds[kept], tokens[kept], covered[kept]
    if not len(seconds):
        return None
    single = bool((covered == 1).all())
    p5, median, p95 = np.quantile(seconds, (0.05, 0.5, 0.95)).tolist() if single else (math.nan,) * 3
    half = rate_half_width(tokens.tolist(), seconds.tolist())
    return Steady(int(covered.sum()), median, p5, p95, float(tokens.sum() / seconds.sum()), half)


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
    return None if several_workers or beside_others(row) or not joules or examples is None else examples / joules


def known(row: Mapping[str, Any], name: str) -> float | None:
    """Return a number of a row; None if the column is missing, or its value is no number."""
    value = row.get(name)
    return float(value) if is_number(value) else None  # type: ignore[arg-type]


def _product(row: Mapping[str, Any], one: str, other: str) -> float | None:
    values = known(row, one), known(row, other)
    return None if values[0] is None or values[1] is None else values[0] * values[1]


def trial_steps(results: Results, key: str) -> Steady | None:
    """Summarize the steady steps of a stored trial; None if its steps were not stored."""
    found = results.memo.setdefault("steady steps", {})
    if key not in found:
        columns = _columns_of(results).get(key)
        found[key] = None if columns is None else _steady(*columns)
    return found[key]  # type: ignore[no-any-return]


def _columns_of(results: Results) -> Mapping[str, list[Any]]:
    """Return the measured columns of each trial's steps in their order; they are arranged once for all trials."""
    if "columns of steps" not in results.memo:
        steps = results.steps
        places = steps.groupby("key").indices if len(steps) else {}
        number = steps["step"].to_numpy() if len(steps) else np.zeros(0)
        ordered = {key: rows[number[rows].argsort(kind="stable")] for key, rows in places.items()}
        columns = _measured(steps) if len(steps) else []
        results.memo["columns of steps"] = {key: [each[rows] for each in columns] for key, rows in ordered.items()}
    return results.memo["columns of steps"]  # type: ignore[no-any-return]


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
    """How many pairs of cells have rates that can be compared, and how many of these do not differ."""

    known: int
    """Pairs for which an interval of the difference is known."""
    alike: int
    """Pairs whose rates differ by less than the half width of the 95 % interval of their difference."""
    closest: tuple[Cell, Cell] | None
    """The pair among these with the smallest relative difference; None if there is none."""


def compare_rates(results: Results) -> RatePairs:
    """Compare the training rates of all pairs of tuned cells."""
    if "pairs of rates" not in results.memo:
        results.memo["pairs of rates"] = _compare_rates(results)
    return results.memo["pairs of rates"]  # type: ignore[no-any-return]


def _compare_rates(results: Results) -> RatePairs:
    cells = [cell for cell in results.tuned if cell.mean(RATE) is not None]
    spreads = [cell.summary.spreads[RATE] for cell in cells]
    halves = [half_width(cell, _single_trial(results, cell)) for cell in cells]
    pairs, alike, closest = 0, 0, (math.inf, -1, -1)
    for place, gaps, widths in pair_intervals(spreads, halves):
        near = gaps < widths  # a width that is not known is NaN
        pairs += int((~np.isnan(widths)).sum())
        alike += int(near.sum())
        if near.any():
            other = int(np.where(near, gaps, np.inf).argmin())
            closest = min(closest, (gaps[other] / (spreads[place].mean or 1.0), place, place + 1 + other))
    return RatePairs(pairs, alike, (cells[closest[1]], cells[closest[2]]) if alike else None)


def pair_intervals(spreads: Sequence[Spread], halves: Sequence[float | None]) -> Iterator[tuple[int, Array, Array]]:
    """Yield, for each cell, how its rate compares with those of the cells after it; memory grows with one row only.

    Args:
        spreads: of each cell's rate.
        halves: half width of the 95 % interval of each rate; None if not known.

    Yields:
        The cell's place; the absolute differences; the half widths of their 95 % intervals (Welch's over trials; over
        the steps if one of the two has a single trial), NaN where not known.
    """
    mean = np.array([spread.mean for spread in spreads], np.float64)
    count = np.array([spread.n for spread in spreads], np.float64)
    error = np.array([math.nan if spread.sd is None else spread.sd for spread in spreads], np.float64) ** 2 / count
    half = np.array([math.nan if one is None else one for one in halves], np.float64)
    freedom = np.where(count > 1, count - 1, math.nan)
    for place in range(len(mean) - 1):
        rest = slice(place + 1, None)
        widths = np.hypot(half[place], half[rest])
        welch = ~np.isnan(error[place] + error[rest])
        if welch.any():
            others = error[rest][welch], freedom[rest][welch]
            widths[welch] = student.welch_half_width(error[place], others[0], (freedom[place], others[1]))
        yield place, np.abs(mean[place] - mean[rest]), widths


def _single_trial(results: Results, cell: Cell) -> list[Steady]:
    found = trial_steps(results, cell.ok_rows[0]["key"]) if len(cell.ok) == 1 else None
    return [found] if found else []
