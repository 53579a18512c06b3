"""What a trial's rates are made of: steps, tokens, padding, work, energy. Derived from stored rows, never stored."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from peftbench.measure.nvml import THROTTLED
from peftbench.report import format as fmt
from peftbench.report.collect import Cell, Results, read_json
from peftbench.results import seeds
from peftbench.results.crossed_effects.model import t_quantile

_BATCHES = 10
"""Into how many runs of steps a trial is cut for the interval of its rate: steps beside each other are not independent,
and more than 10 to 30 batches gain little (Schmeiser 1982, Operations Research 30:556)."""
LEAST_STEADY = 3
"""Fewest steady steps that have a rate."""
RATE = "tokens_per_second"
HEADS = (
    *("cell", "non-padding tokens/s", "processed tokens/s", "loss-bearing tokens/s", "± within a trial"),
    *("padding left", "median step [ms]", "p5 [ms]", "p95 [ms]", "untimed"),
    *("FLOPs per token", "FLOP/s", "MFU", "energy", "samples/J"),
)


@dataclass(frozen=True)
class Steady:
    """The steady steps of one trial."""

    n: int
    median: float
    """Seconds per step."""
    p5: float
    p95: float
    rate: float
    """Non-padding data tokens per second."""
    half_width: float | None
    """Of the rate's 95 % interval over the trial's steps; it knows nothing of other trials. None for too few steps."""


def steady(steps: Any) -> Steady | None:
    """Return what the steady steps of one trial show, None where there is none.

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
    """Return the operations per second that training reached, of matrix products."""
    return _product(row, "train_flops_per_token", "processed_tokens_per_second")


def utilization(row: Mapping[str, Any]) -> float | None:
    """Return the share of the device's measured matrix rate that training reached (MFU, against what was measured)."""
    done, rate = achieved(row), _known(row, "device_flops_per_second")
    return done / rate if done is not None and rate else None


def padding(row: Mapping[str, Any], virtual: int) -> float | None:
    """Return which share of the data positions in training was padding.

    Args:
        row: of ``trials``.
        virtual: positions that the method adds to each example.
    """
    processed, data, examples = (_known(row, n) for n in ("processed_tokens", "nonpadding_tokens", "examples_seen"))
    if processed is None or data is None or (virtual and examples is None):
        return None
    positions = processed - virtual * (examples or 0)
    return 1 - data / positions if positions else None


def samples_per_joule(row: Mapping[str, Any]) -> float | None:
    """Return training examples per joule; None where the counter saw other trials or processes too."""
    joules, examples = _known(row, "train_energy_joules"), _known(row, "examples_seen")
    shared = (row.get("energy_source") == "rapl" and (_known(row, "workers") or 1) > 1) or _known(
        row, "other_gpu_processes"
    )
    return None if shared or not joules or examples is None else examples / joules


def _known(row: Mapping[str, Any], name: str) -> float | None:
    value = row.get(name)
    try:
        return float(value) if math.isfinite(value) else None  # type: ignore[arg-type]
    except TypeError:  # None and pandas.NA
        return None


def _product(row: Mapping[str, Any], one: str, other: str) -> float | None:
    values = _known(row, one), _known(row, other)
    return None if values[0] is None or values[1] is None else values[0] * values[1]


@dataclass(frozen=True)
class Rates:
    """A table of the page: a row per cell that trained."""

    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def rates(results: Results) -> Rates | None:
    """Return steps, rates, padding, work and energy of each cell as means over its trials; None where none trained.

    A rate's ± is the half width of its 95 % t-interval over trials; of a single trial, over its steps.
    """
    cells = [cell for cell in results.tuned if cell.mean("train_seconds") is not None]
    made = [_row(cell, [s for s in (trial_steps(results, key) for key in cell.ok["key"]) if s]) for cell in cells]
    return Rates(HEADS, tuple(made)) if made else None


def trial_steps(results: Results, key: str) -> Steady | None:
    """Return what the steady steps of a trial show, None where they are not stored."""
    steps = results.steps
    return steady(steps[steps["key"] == key].sort_values("step")) if len(steps) else None


def _row(cell: Cell, steps: Sequence[Steady]) -> tuple[str, ...]:
    rows = cell.ok.to_dict("records")
    virtual = (cell.rank or 0) if cell.record is not None and cell.record.virtual_tokens else 0

    def mean(of: Callable[[Any], float | None], among: Sequence[Any] = rows) -> float | None:
        found = seeds.spread_of(of(one) for one in among)
        return None if found is None else found.mean

    half = _half_width(cell, steps)
    within = mean(lambda s: s.half_width and s.half_width / s.rate, steps)
    joules = mean(lambda row: _known(row, "train_energy_joules"))
    return (
        cell.name,
        fmt.spread(cell.mean(RATE), half, 1.0, 0),
        fmt.number(cell.mean("processed_tokens_per_second")),
        fmt.number(cell.mean("loss_tokens_per_second")),
        fmt.percent(within),
        fmt.percent(mean(lambda row: padding(row, virtual))),
        *(fmt.number(mean(lambda s, name=name: 1e3 * getattr(s, name), steps)) for name in ("median", "p5", "p95")),  # type: ignore[misc]
        fmt.seconds(cell.mean("untimed_seconds")),
        fmt.count(cell.mean("train_flops_per_token")),
        fmt.count(mean(achieved)),
        fmt.percent(mean(utilization)),
        fmt.MISSING if joules is None else f"{fmt.number(joules)} J",
        fmt.number(mean(samples_per_joule)),
    )


def _half_width(cell: Cell, steps: Sequence[Steady]) -> float | None:
    """Return the half width of a cell's rate: over its trials; where there is one, over its steps."""
    spread = cell.summary.spreads.get(RATE)
    if spread is None or spread.n > 1:
        return None if spread is None else spread.half_width
    return steps[0].half_width if steps else None


def notes(results: Results) -> Iterable[str]:
    """Say why a cell has no rate, which rates are no different, and what else the GPU did."""
    yield from _without(results)
    yield from _equal(results)
    yield from _gpu(results)


def _without(results: Results) -> Iterable[str]:
    names = [c.name for c in results.tuned if c.mean(RATE) is None and c.mean("train_seconds") is not None]
    if names:
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        yield f"No speed of {', '.join(names[:3])}{more}: fewer than {LEAST_STEADY} steps after the untimed ones."


def _equal(results: Results) -> Iterable[str]:
    """Say of how many pairs of cells the rates differ by less than the interval of their difference."""
    cells = [cell for cell in results.tuned if cell.mean(RATE) is not None]
    halves = {cell.name: _half_width(cell, _single(results, cell)) for cell in cells}
    pairs = [(one, other, _difference(one, other, halves)) for one, other in itertools.combinations(cells, 2)]
    known = [(one, other, *found) for one, other, found in pairs if found]
    void = [(gap / (one.mean(RATE) or 1.0), one, other) for one, other, gap, half in known if gap < half]
    if void:
        _, one, other = min(void, key=lambda found: found[0])
        many = f"{one.name} and {other.name}"
        if len(void) > 1:
            many = f"{len(void)} of {len(known)} pairs of cells, as {many},"
        yield f"Speeds of {many} differ by less than their 95 % intervals: they have no order."


def _single(results: Results, cell: Cell) -> list[Steady]:
    found = trial_steps(results, cell.ok["key"].iloc[0]) if len(cell.ok) == 1 else None
    return [found] if found else []


def _difference(one: Cell, other: Cell, halves: Mapping[str, float | None]) -> tuple[float, float] | None:
    """Return how far two rates are apart, and the half width of the interval of that; None where it is not known."""
    a, b = one.summary.spreads[RATE], other.summary.spreads[RATE]
    welch = seeds.welch_interval(a, b)
    if welch is not None:
        return abs(welch[0]), welch[1]
    first, second = halves[one.name], halves[other.name]
    return None if first is None or second is None else (abs(a.mean - b.mean), math.hypot(first, second))


def _gpu(results: Results) -> Iterable[str]:
    rows = [row for cell in results.tuned for row in cell.ok.to_dict("records")]
    shared = sum(bool(_known(row, "other_gpu_processes")) for row in rows)
    if shared:
        yield f"Another process was on the GPU in {shared} of {len(rows)} trials: do not trust their times."
    ends = [read_json(row.get("device_state_json")).get("end") or {} for row in rows]
    slowed = [set(end.get("slowed_by") or ()) & THROTTLED for end in ends]
    if any(slowed):
        why = ", ".join(sorted(set().union(*slowed)))
        yield f"The GPU had slowed itself ({why}) as training ended in {sum(map(bool, slowed))} of {len(rows)} trials."
