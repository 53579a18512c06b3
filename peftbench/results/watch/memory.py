"""Memory where repetitions differ (a GPU's allocator): growth beyond the tolerance that repetitions show."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from peftbench.results.crossed_effects.student import LEVEL
from peftbench.results.watch.findings import Cell, Finding, Interval, Sides, Verdict, finding, moved
from peftbench.results.watch.noise import Error, Moves, adjusted, moves, pooled, spread_over_cells
from peftbench.results.watch.quantities import Quantity, Seed, mean

Values = Mapping[Cell, tuple[Mapping[Seed, float], Mapping[Seed, float]]]
"""By cell, the values of both sides by seed, at least one of each."""
_ENOUGH = 3
"""Least degrees of freedom with which exact repetition in some cells is taken to hold for the others."""
WITHIN = 0.01
"""Change of a peak, as a fraction, within which it is called unchanged if its interval lies within: 1 %."""


def judge(quantity: Quantity, values: Values, tolerated: float) -> list[Finding]:
    """Return the verdicts on a memory peak of which repetitions may differ.

    A trial's change is a share of its cell's old mean. The spread of these changes over the seeds of each cell, pooled
    over all cells, is the allocator's tolerance. Growth counts if it is beyond ``tolerated`` in Student's test with
    this tolerance, after Holm's correction over the cells. If all repetitions agree, any growth counts. With one trial
    a side in every cell, the cells are the repetitions of each other: their changes' spread about the middle one is the
    tolerance, and only growth beyond 1 % counts. With few such cells, only equal peaks can be judged. The same
    holds for cells with one trial a side if the others repeat exactly, but with fewer than three degrees of freedom.

    Args:
        quantity: the peak.
        values: by cell, of both sides.
        tolerated: growth up to which it is unchanged, a fraction.
    """
    found: dict[Cell, Moves] = {}
    for cell, (old, new) in values.items():
        level = mean(old) or 1.0
        relative = [{seed: value / level for seed, value in side.items()} for side in (old, new)]
        one = moves(*relative)
        if one is not None:
            found[cell] = one
    noise = pooled(found.values())
    if noise is None:
        return _by_other_cells(quantity, values, {cell: one.change for cell, one in found.items()}, tolerated)
    alone = {cell: one.change for cell, one in found.items() if not one.freedom}
    if noise[0] == 0 and noise[1] < _ENOUGH and alone:
        told = judge(quantity, {cell: values[cell] for cell in found if cell not in alone}, tolerated)
        # p values without noise are 0 or 1, so that these stay what they are in a larger family
        beside = {each.key: each.p for each in told if each.p is not None}
        told += _by_other_cells(quantity, values, alone, tolerated, beside)
        return sorted(told, key=lambda each: list(found).index(each.key))
    errors = {cell: Error((noise[0] * one.weight) ** 0.5, noise[1]) for cell, one in found.items()}
    p = adjusted({cell: errors[cell].beyond(one.change, tolerated) for cell, one in found.items()})
    return [
        _finding(cell, quantity, values[cell], one, errors[cell], p[cell], tolerated) for cell, one in found.items()
    ]


def _finding(
    cell: Cell,
    quantity: Quantity,
    sides: tuple[Mapping[Seed, float], Mapping[Seed, float]],
    one: Moves,
    error: Error,
    p: float,
    tolerated: float,
) -> Finding:
    half = error.half_width
    low, high = one.change - half, one.change + half
    within = max(WITHIN, tolerated)
    verdict: Verdict
    reason = None
    if p < LEVEL:
        verdict = moved(quantity, one.change)
    elif (one.change == 0 and one.squares == 0) or (-within <= low and high <= within):
        verdict = "unchanged"
    else:
        verdict, reason = "cannot tell", "repetitions differ by as much"
    rule = "beyond the spread of repetitions"
    return finding(cell, quantity, verdict, rule, Sides.of(*sides), Interval(one.change, low, high), p, reason)


def _by_other_cells(
    quantity: Quantity,
    values: Values,
    changes: Mapping[Cell, float],
    tolerated: float,
    beside: Mapping[Cell, float] = MappingProxyType({}),
) -> list[Finding]:
    """Return the verdicts on cells with one trial a side; Holm's correction counts the p values of others too."""
    error = spread_over_cells(list(changes.values()))
    if error is None:
        return [_without_noise(cell, quantity, *values[cell]) for cell in changes]
    margin = max(WITHIN, tolerated)
    p = adjusted({**beside, **{cell: error.beyond(change, margin) for cell, change in changes.items()}})
    found = []
    for cell, change in changes.items():
        half = error.half_width
        within = change == 0 or (-margin <= change - half and change + half <= margin)
        verdict: Verdict = "unchanged" if within else "cannot tell"
        if p[cell] < LEVEL:
            verdict = moved(quantity, change)
        reason = "other cells moved by as much" if verdict == "cannot tell" else None
        rule = f"beyond {100 * margin:g} % and the spread over cells"
        sides, interval = (
            Sides.of(*values[cell]),
            Interval(change, change - half, change + half),
        )
        found.append(finding(cell, quantity, verdict, rule, sides, interval, p[cell], reason))
    return found


def _without_noise(cell: Cell, quantity: Quantity, old: Mapping[Seed, float], new: Mapping[Seed, float]) -> Finding:
    sides = Sides.of(old, new)
    change = Interval(sides.new / sides.old - 1 if sides.new is not None and sides.old else None)
    rule = "equal without repetition"
    if sides.new == sides.old:
        return finding(cell, quantity, "unchanged", rule, sides, Interval(0.0))
    why = "one trial a side: how far repetitions differ is not known"
    return finding(cell, quantity, "cannot tell", rule, sides, change, reason=why)
