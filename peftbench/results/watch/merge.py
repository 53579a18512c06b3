"""The rounding error of merging a method into the base weights."""

from __future__ import annotations

from collections.abc import Mapping

from peftbench.results.watch.findings import Cell, Finding, Verdict, moved
from peftbench.results.watch.quantities import Quantity, Seed, mean


def judge(
    cell: Cell, quantity: Quantity, old: Mapping[Seed, float], new: Mapping[Seed, float], factor: float
) -> Finding:
    """Return the verdict on the largest difference of a logit between the merged and the unmerged model.

    It is the largest of many rounding errors, measured once for each cell, and so it has no known spread. A growth by
    more than ``factor`` is a regression, a fall by more an improvement. If one side is exactly zero and the other is
    not, nothing can be told.

    Args:
        cell: base model and name.
        quantity: the merge error.
        old: values of the old side, at least one.
        new: values of the new side, at least one.
        factor: at least 1.
    """
    one, other = mean(old) or 0.0, mean(new) or 0.0
    trials, rule = (len(old), len(new)), f"by more than a factor of {factor:g}"
    if one == other:
        return Finding(*cell, quantity, "unchanged", rule, one, other, trials, 0.0)
    if one <= 0 or other <= 0:
        why = "one side's error is zero, so that no factor is defined"
        return Finding(*cell, quantity, "cannot tell", rule, one, other, trials, reason=why)
    change = other / one - 1
    verdict: Verdict = "unchanged" if 1 / factor <= other / one <= factor else moved(quantity, change)
    return Finding(*cell, quantity, verdict, rule, one, other, trials, change)
