"""Training speed: what a cell did against the others, and what all cells did together.

The speed of one machine differs from night to night, and drifts within a night, by more than a method changes. So the
change of a trial's speed, d = log(new / old) of the same cell and seed, is taken apart:

- **what all cells did together**, the median of d over all trials: the machine, or a change that all cells share. Which
  of the two it is, a clock tells that each trial measures: a fixed reference step (``reference_step_seconds``), else a
  matrix product (``device_flops_per_second``). A change that all cells share is
  what is left after the clock's change is subtracted, within each trial, as the machine drifts. A clock counts if all
  trials of two thirds of the cells have it: fewer cells would say what the machine did from what they did. Steps and
  clock disagree from night to night by ``REFERENCE_SD`` or ``CLOCK_SD``; without a clock, the machine itself varies by
  ``Watch.machine_percent``.
- **what a cell did against the others**, the mean over seeds of d minus that median. Its standard error is the largest
  of three: from the trials' spread pooled over cells, from the cell's own spread moderated by the pooled one (Smyth
  2004), and from the spread of the cells among each other, which is noise if fewer than half of them have changed.

If all cells moved together beyond the machine, each cell is judged by its whole change, else against the others. A cell
that did not move against the others is unchanged only if its change is within the least one also together with what the
clock does not explain of the common change: else all cells may have changed, and two nights cannot tell.

What a code change does to all cells, it may do with one base model only. So "all cells" are those of one base model, if
these are enough, else those of all base models that have too few.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from peftbench.results.crossed_effects.student import LEVEL
from peftbench.results.watch import clocks, noise
from peftbench.results.watch.clocks import CLOCKS, Timed, logs
from peftbench.results.watch.findings import ALL_CELLS, Cell, Finding, Interval, Sides, Verdict, finding, moved
from peftbench.results.watch.noise import FEWEST_CELLS, SHARE_OF_CELLS, Error, Moves
from peftbench.results.watch.quantities import Quantity, Seed

_PRIOR = 4
"""Degrees of freedom that the pooled variance counts as, next to a cell's own."""
AGAINST_OTHERS = "against the other cells, beyond noise"
"""Rule of a cell whose change leaves out what all cells did together."""


@dataclass(frozen=True)
class Together:
    """What cells did together, as logarithms of ratios."""

    change: float
    """Median over the trials of their change of speed."""
    explained: float
    """What of it the machine's clock explains."""
    clock: float | None
    """Median change of the machine's clock; None if it has none."""
    clock_name: str
    """Which clock it is."""
    error: Error
    """Of ``rest``, from night to night."""
    by_base: Mapping[str, float]
    """The same of the trials of each base model."""
    count: int
    """Number of cells."""

    @property
    def rest(self) -> float:
        """What the machine does not explain."""
        return self.change - self.explained


@dataclass(frozen=True)
class _Change:
    """What is judged of a cell, as a logarithm of a ratio."""

    value: float
    error: Error
    rule: str
    common: Together | None = None
    """What all cells did together, where that does not count and ``value`` is against the other cells."""


def judge(quantity: Quantity, cells: Mapping[Cell, Timed], least: float, machine_sd: float) -> list[Finding]:
    """Return the verdicts on speed: of all cells of a base model together first, then one for each cell.

    Fewer than four cells have no finding together, unless the other base models with as few have four with them.

    Args:
        quantity: the speed.
        cells: by cell; only those whose times compare.
        least: change up to which it is unchanged, a fraction.
        machine_sd: standard deviation of the machine's speed between nights where it has no clock, a fraction.
    """
    margin, machine = math.log1p(least), math.log1p(machine_sd)
    first: list[Finding] = []
    changes: dict[Cell, _Change] = {}
    grids = _grids(cells)
    common = [_together(grid, machine) if len(grid) >= FEWEST_CELLS else None for grid in grids]
    tested = {(f"{place}", ALL_CELLS): each for place, each in enumerate(common) if each}
    adjusted = noise.adjusted({key: each.error.beyond(each.rest, margin) for key, each in tested.items()})
    for place, (grid, together) in enumerate(zip(grids, common, strict=True)):
        if together is None:
            changes |= _alone(grid, machine)
            continue
        p = adjusted[f"{place}", ALL_CELLS]
        first += [_of_all(quantity, together, p, margin, base) for base in together.by_base]
        changes |= _in_grid(grid, together, shared=p < LEVEL)
    ordered = {cell: changes[cell] for cell in cells if cell in changes}
    return [*first, *_verdicts(quantity, cells, ordered, margin)]


def _grids(cells: Mapping[Cell, Timed]) -> list[dict[Cell, Timed]]:
    """Return the cells of each base model that has enough to say what they did together, and those of the others."""
    by_base: dict[str, dict[Cell, Timed]] = {}
    for cell, one in cells.items():
        by_base.setdefault(cell[0], {})[cell] = one
    large = [grid for grid in by_base.values() if len(grid) >= FEWEST_CELLS]
    others = {cell: one for grid in by_base.values() if len(grid) < FEWEST_CELLS for cell, one in grid.items()}
    return [*large, others] if others else large


def _in_grid(cells: Mapping[Cell, Timed], together: Together, shared: bool) -> dict[Cell, _Change]:
    """Return each cell's whole change if what all cells did together counts, else its change against the others."""
    own = _against_others(cells)
    if shared:
        rule = "its whole change, beyond noise"
        return {
            cell: _Change(one.change + together.rest, _sum(error, together.error), rule)
            for cell, (one, error) in own.items()
        }
    return {cell: _Change(one.change, error, AGAINST_OTHERS, together) for cell, (one, error) in own.items()}


def _verdicts(
    quantity: Quantity, cells: Mapping[Cell, Timed], changes: Mapping[Cell, _Change], margin: float
) -> list[Finding]:
    adjusted = noise.adjusted({cell: each.error.beyond(each.value, margin) for cell, each in changes.items()})
    found = []
    for cell, each in changes.items():
        sides = cells[cell]
        half = each.error.half_width
        low, high = each.value - half, each.value + half
        verdict: Verdict = "cannot tell"
        reason: str | None = "the noise is too large for the least change that counts"
        if adjusted[cell] < LEVEL:
            verdict, reason = moved(quantity, each.value), None
        elif -margin <= low and high <= margin:
            verdict, reason = _unchanged(each, margin)
        values = Sides.of(sides.old, sides.new)
        interval = Interval.of_logs(each.value, low, high)
        found.append(finding(cell, quantity, verdict, each.rule, values, interval, adjusted[cell], reason))
    return found


def _unchanged(each: _Change, margin: float) -> tuple[Verdict, str | None]:
    """Return "unchanged" of a cell that kept pace with the others, if that holds with the common change too."""
    if each.common is None or abs(each.value + each.common.rest) <= margin:
        return "unchanged", None
    percent = _percent(each.common.change)
    return "cannot tell", f"all cells moved together by {percent}, and two nights cannot tell that from the machine"


def _moves(one: Timed) -> Moves | None:
    return noise.moves(logs(one.old), logs(one.new))


def _together(cells: Mapping[Cell, Timed], machine: float) -> Together:
    """Return what cells did together, and how far that is uncertain.

    It is the median over trials, not over the cells' means: another process disturbs some trials by far more than the
    others, and the clock is read beside a trial's steps, not within them.
    """
    whole = {cell: found for cell, one in cells.items() if (found := clocks.differences(one.old, one.new))}
    change = _median(whole.values())
    bases = dict.fromkeys(base for base, _ in whole)
    by_base = {base: _median(found for cell, found in whole.items() if cell[0] == base) for base in bases}
    for clock in CLOCKS:
        rest = {cell: own for cell in whole if (own := clock.beside(cells[cell]))}
        if len(rest) < max(FEWEST_CELLS, SHARE_OF_CELLS * len(whole)):
            continue  # of too few cells every trial has a value of this clock
        # of the same cells on both sides of the difference, so that it is the machine's part in all cells
        explained = _median(whole[cell] for cell in rest) - _median(rest.values())
        showed = _median({seed: whole[cell][seed] - own for seed, own in each.items()} for cell, each in rest.items())
        error = _with_spread(_all(rest.values()), clock.sd)
        return Together(change, explained, showed, clock.name, error, by_base, len(cells))
    return Together(change, 0.0, None, "", _with_spread(_all(whole.values()), machine), by_base, len(cells))


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
        old, new = logs(one.old), logs(one.new)
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


def _alone(cells: Mapping[Cell, Timed], machine: float) -> dict[Cell, _Change]:
    """Return the changes of few cells, which cannot be told apart from the machine but by its clock."""
    changes = {}
    pool = noise.pooled(found for one in cells.values() if (found := _moves(one)))
    for cell, one in cells.items():
        found = _moves(one)
        if found is None:
            continue
        known = ((statistics.fmean(rest.values()), clock.sd) for clock in CLOCKS if (rest := clock.beside(one)))
        change, nights = next(known, (found.change, machine))
        trials = math.sqrt(pool[0] * found.weight) if pool else 0.0
        error = Error(math.hypot(trials, nights), pool[1] if pool else math.inf)
        changes[cell] = _Change(change, error, "beyond noise and what the machine itself varies from run to run")
    return changes


def _of_all(quantity: Quantity, found: Together, p: float, margin: float, base: str) -> Finding:
    """Return the verdict on what all cells did together, as far as it holds for the cells of a base model too."""
    half = found.error.half_width
    low, high = found.rest - half, found.rest + half
    own = found.by_base[base] - found.explained
    verdict: Verdict = "cannot tell"
    reason = f"{found.count} cells together moved by {_percent(found.change)}"
    if found.clock is not None:
        reason += f", the machine's {found.clock_name} by {_percent(found.clock)}"
    if p < LEVEL and own * found.rest > 0 and abs(own) > margin:
        verdict = moved(quantity, found.rest)
        reason += ": more than the machine explains"
    elif p < LEVEL:
        reason += f": more than the machine explains, but the cells of {base} moved by {_percent(found.by_base[base])}"
    elif -margin <= low and high <= margin and abs(own) <= margin:
        verdict = "unchanged"
        reason += ": what the machine did"
    elif abs(found.rest) <= margin:
        reason += ": no more than the machine itself varies from run to run"
    else:
        reason += ": two nights cannot tell a change in all cells from the machine"
    rule = "all cells together, beyond what the machine does"
    interval = Interval.of_logs(found.rest, low, high)
    return finding((base, ALL_CELLS), quantity, verdict, rule, Sides(), interval, p, reason)


def _percent(change: float) -> str:
    return f"{100 * math.expm1(change):+.1f} %"
