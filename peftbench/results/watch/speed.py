"""Training speed: what a cell did against the others, and what all cells did together.

The speed of one machine differs from night to night, and drifts within a night, by more than a method changes. So the
change of a trial's speed, d = log(new / old) of the same cell and seed, is taken apart:

- **what all cells did together**, the median of d over all trials: the machine, or a change that all cells share. Which
  of the two, a clock of the machine tells, which each trial measures: a fixed reference step
  (``reference_step_seconds``), else a matrix product (``device_flops_per_second``). A change that all cells share is
  what is left after the clock's change is subtracted from each trial's. Steps and clock disagree from night to night by
  ``REFERENCE_SD`` or ``CLOCK_SD``; without a clock, the machine itself varies by ``Watch.machine_percent``.
- **what a cell did against the others**, the mean over seeds of d minus that median. Its standard error is the largest
  of three: from the trials' spread pooled over cells, from the cell's own spread moderated by the pooled one (Smyth
  2004), and from the spread of the cells among each other, which is noise if fewer than half of them have changed.

If all cells moved together beyond the machine, each cell is judged by its whole change, else against the others. A cell
that did not move against the others is unchanged only if its change is within the least one also together with what the
clock does not explain of the common change: else all cells may have changed, and two nights cannot tell.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from peftbench.results.crossed_effects.student import LEVEL
from peftbench.results.watch import noise
from peftbench.results.watch.findings import ALL_CELLS, Cell, Finding, Interval, Sides, Verdict, finding, moved
from peftbench.results.watch.noise import FEWEST_CELLS, Error, Moves
from peftbench.results.watch.quantities import Quantity, Seed

CLOCK_SD = 0.03
"""Standard deviation, from night to night of unchanged code, of a training step's speed relative to the matrix
product's. Measured: ``docs/statistics.md``."""
REFERENCE_SD = 0.015
"""The same relative to the reference step's, which is made of what a training step is made of."""
_PRIOR = 4
"""Degrees of freedom that the pooled variance counts as, next to a cell's own."""
Logs = Mapping[Seed, float]


@dataclass(frozen=True)
class Timed:
    """The speed of a cell on both sides, of trials whose times count."""

    old: Mapping[Seed, float]
    """Tokens per second by seed, at least one."""
    new: Mapping[Seed, float]
    old_clock: Mapping[Seed, float]
    """FLOPs per second of the matrix product that the same trial measured; empty if it is not known."""
    new_clock: Mapping[Seed, float]
    old_reference: Mapping[Seed, float] = field(default_factory=dict)
    """Reference steps per second that the same trial measured; empty if they are not known."""
    new_reference: Mapping[Seed, float] = field(default_factory=dict)


@dataclass(frozen=True)
class _Clock:
    """What tells how fast the machine was."""

    name: str
    sd: float
    """Of a step's speed relative to it, from night to night, as a logarithm."""
    sides: Callable[[Timed], tuple[Logs, Logs]]
    """Its speed on both sides."""

    def moves(self, one: Timed) -> Moves | None:
        """Return how much it changed beside a cell's trials."""
        return noise.moves(*map(_logs, self.sides(one)))


_CLOCKS = (
    _Clock("reference step", REFERENCE_SD, lambda one: (one.old_reference, one.new_reference)),
    _Clock("matrix product", CLOCK_SD, lambda one: (one.old_clock, one.new_clock)),
)
"""The best one first."""


@dataclass(frozen=True)
class Together:
    """What all cells did together, as logarithms of ratios."""

    change: float
    """Median over the trials of their change of speed."""
    clock: float | None
    """Median change of the machine's clock; None if it has none."""
    clock_name: str
    """Which clock it is."""
    error: Error
    """Of ``rest``, from night to night."""

    @property
    def rest(self) -> float:
        """What the machine does not explain."""
        return self.change - (self.clock or 0.0)


def judge(quantity: Quantity, cells: Mapping[Cell, Timed], least: float, machine_sd: float) -> list[Finding]:
    """Return the verdicts on speed: of all cells together first, if there are enough, then one for each cell.

    What all cells did together is told of each base model, as it is the same machine's.

    Args:
        quantity: the speed.
        cells: by cell; only those whose times compare.
        least: change up to which it is unchanged, a fraction.
        machine_sd: standard deviation of the machine's speed between nights where it has no clock, a fraction.
    """
    if not cells:
        return []
    margin, machine = math.log1p(least), math.log1p(machine_sd)
    if len(cells) < FEWEST_CELLS:
        return _alone(quantity, cells, margin, machine)
    together = _together(cells, machine)
    p = together.error.beyond(together.rest, margin)
    shared = p < LEVEL
    bases = dict.fromkeys(base for base, _ in cells)
    first = [_of_all(quantity, together, p, margin, base, len(cells)) for base in bases]
    own = _against_others(cells)
    changes = {cell: one.change + (together.rest if shared else 0.0) for cell, (one, _) in own.items()}
    errors = {cell: _sum(error, together.error) if shared else error for cell, (_, error) in own.items()}
    rule = "its whole change, beyond noise" if shared else "against the other cells, beyond noise"
    found = _verdicts(quantity, cells, changes, errors, margin, rule)
    return [*first, *(found if shared else _with_the_rest(found, together, margin))]


def _with_the_rest(found: list[Finding], together: Together, margin: float) -> list[Finding]:
    """Return findings against the other cells; "unchanged" stands only where that holds with the common change too."""
    why = f"all cells moved together by {_percent(together.change)}, and two nights cannot tell that from the machine"
    kept = []
    for each in found:
        whole = math.log1p(each.change or 0.0) + together.rest
        open_ = each.verdict == "unchanged" and abs(whole) > margin
        kept.append(replace(each, verdict="cannot tell", reason=why) if open_ else each)
    return kept


def _verdicts(
    quantity: Quantity,
    cells: Mapping[Cell, Timed],
    changes: Mapping[Cell, float],
    errors: Mapping[Cell, Error],
    margin: float,
    rule: str,
) -> list[Finding]:
    adjusted = noise.adjusted({cell: errors[cell].beyond(change, margin) for cell, change in changes.items()})
    found = []
    for cell, change in changes.items():
        sides = cells[cell]
        half = errors[cell].half_width
        low, high = change - half, change + half
        verdict: Verdict = "cannot tell"
        reason: str | None = "the noise is too large for the least change that counts"
        if adjusted[cell] < LEVEL:
            verdict, reason = moved(quantity, change), None
        elif -margin <= low and high <= margin:
            verdict, reason = "unchanged", None
        values = Sides.of(sides.old, sides.new)
        interval = Interval.of_logs(change, low, high)
        found.append(finding(cell, quantity, verdict, rule, values, interval, adjusted[cell], reason))
    return found


def _logs(values: Mapping[Seed, float]) -> dict[Seed, float]:
    return {seed: math.log(value) for seed, value in values.items() if value > 0}


def _moves(one: Timed) -> Moves | None:
    return noise.moves(_logs(one.old), _logs(one.new))


def _together(cells: Mapping[Cell, Timed], machine: float) -> Together:
    """Return what all cells did together, and how far that is uncertain.

    It is the median over trials, not over the cells' means: another process disturbs some trials by far more than the
    others, and the clock is read beside a trial's steps, not within them.
    """
    whole = {cell: found for cell, one in cells.items() if (found := _differences(one.old, one.new))}
    change = _median(whole.values())
    for clock in _CLOCKS:
        moved = {cell: found for cell in whole if (found := _differences(*clock.sides(cells[cell])))}
        both = {cell: _less(whole[cell], found) for cell, found in moved.items()}
        rest = {cell: found for cell, found in both.items() if found}
        if len(rest) >= FEWEST_CELLS:
            explained = change - _median(rest.values())
            return Together(change, explained, clock.name, _with_spread(_all(rest.values()), clock.sd))
    return Together(change, None, "", _with_spread(_all(whole.values()), machine))


def _differences(old: Logs, new: Logs) -> dict[Seed, float]:
    """Return the change of each seed's logarithm; without a common seed that of the means, as of no seed."""
    one, other = _logs(old), _logs(new)
    both = {seed: other[seed] - one[seed] for seed in one if seed in other}
    if both or not one or not other:
        return both
    return {None: statistics.fmean(other.values()) - statistics.fmean(one.values())}


def _less(whole: Mapping[Seed, float], clock: Mapping[Seed, float]) -> dict[Seed, float]:
    return {seed: change - clock[seed] for seed, change in whole.items() if seed in clock}


def _all(found: Iterable[Mapping[Seed, float]]) -> list[float]:
    return [change for each in found for change in each.values()]


def _median(found: Iterable[Mapping[Seed, float]]) -> float:
    return statistics.median(_all(found))


def _with_spread(changes: list[float], nights: float) -> Error:
    """Return the error of a median over trials that also varies from night to night."""
    spread = noise.spread_over_cells(changes)
    of_median = math.sqrt(math.pi / 2) * spread.value / math.sqrt(len(changes)) if spread else 0.0
    return Error(math.hypot(of_median, nights), math.inf)


def _sum(one: Error, other: Error) -> Error:
    return Error(math.hypot(one.value, other.value), min(one.freedom, other.freedom))


def _against_others(cells: Mapping[Cell, Timed]) -> dict[Cell, tuple[Moves, Error]]:
    """Return each cell's change against the others, with its error."""
    by_seed: dict[Cell, dict[Seed, float]] = {}
    apart: dict[Cell, Moves] = {}
    for cell, one in cells.items():
        old, new = _logs(one.old), _logs(one.new)
        both = {seed: new[seed] - old[seed] for seed in old if seed in new}
        if both:
            by_seed[cell] = both
        elif (found := noise.moves(old, new)) is not None:
            apart[cell] = found
    rounds = _rounds(by_seed)
    overall = statistics.median([statistics.fmean(each.values()) for each in by_seed.values()] or [0.0])
    own = {
        cell: noise.of_differences([change - rounds.get(seed, overall) for seed, change in each.items()])
        for cell, each in by_seed.items()
    }
    if apart:
        centre = statistics.median(found.change for found in apart.values())
        own |= {cell: replace(found, change=found.change - centre) for cell, found in apart.items()}
    pool = noise.pooled(own.values(), max(1, len(rounds)))
    between = noise.spread_over_cells([found.change for found in own.values()])
    return {cell: (own[cell], _error(own[cell], pool, between)) for cell in cells if cell in own}


def _rounds(by_seed: Mapping[Cell, Mapping[Seed, float]]) -> dict[Seed, float]:
    """Return the median change of each seed that enough cells have: seeds run one after another, so it is a time."""
    seeds = dict.fromkeys(seed for each in by_seed.values() for seed in each)
    listed = {seed: [each[seed] for each in by_seed.values() if seed in each] for seed in seeds}
    return {seed: statistics.median(found) for seed, found in listed.items() if len(found) >= FEWEST_CELLS}


def _error(own: Moves, pool: tuple[float, int] | None, between: Error | None) -> Error:
    """Return the standard error of a cell's change against the others."""
    found = [between] if between else []
    if pool is not None:
        variance, freedom = pool
        found.append(Error(math.sqrt(variance * own.weight), freedom))
        moderated = (_PRIOR * variance + own.squares) / (_PRIOR + own.freedom)
        found.append(Error(math.sqrt(moderated * own.weight), _PRIOR + own.freedom))
    return noise.larger(*found) or Error(math.inf, 1.0)


def _alone(quantity: Quantity, cells: Mapping[Cell, Timed], margin: float, machine: float) -> list[Finding]:
    """Return the verdicts on few cells, which cannot be told apart from the machine but by its clock."""
    changes, errors = {}, {}
    pool = noise.pooled(found for one in cells.values() if (found := _moves(one)))
    for cell, one in cells.items():
        found = _moves(one)
        if found is None:
            continue
        known = ((moved.change, clock.sd) for clock in _CLOCKS if (moved := clock.moves(one)))
        explained, nights = next(known, (0.0, machine))
        changes[cell] = found.change - explained
        trials = math.sqrt(pool[0] * found.weight) if pool else 0.0
        errors[cell] = Error(math.hypot(trials, nights), pool[1] if pool else math.inf)
    rule = "beyond noise and what the machine does from night to night"
    return _verdicts(quantity, cells, changes, errors, margin, rule)


def _of_all(quantity: Quantity, found: Together, p: float, margin: float, base: str, count: int) -> Finding:
    half = found.error.half_width
    low, high = found.rest - half, found.rest + half
    verdict: Verdict = "cannot tell"
    clock = None if found.clock is None else f"the machine's {found.clock_name} by {_percent(found.clock)}"
    reason = f"{count} cells together moved by {_percent(found.change)}"
    if clock:
        reason += f", {clock}"
    if p < LEVEL:
        verdict = moved(quantity, found.rest)
        reason += ": more than the machine explains"
    elif -margin <= low and high <= margin:
        verdict = "unchanged"
        reason += ": what the machine did"
    elif abs(found.rest) <= margin:
        reason += ": no more than the machine does from night to night"
    else:
        reason += ": two nights cannot tell a change in all cells from the machine"
    rule = "all cells together, beyond what the machine does"
    interval = Interval.of_logs(found.rest, low, high)
    return finding((base, ALL_CELLS), quantity, verdict, rule, Sides(), interval, p, reason)


def _percent(change: float) -> str:
    return f"{100 * math.expm1(change):+.1f} %"
