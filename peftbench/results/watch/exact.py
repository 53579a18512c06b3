"""Sizes, parameters and memory on the CPU: numbers that a repetition gives again exactly, so any difference is one."""

from __future__ import annotations

from collections.abc import Mapping

from peftbench.results.watch.findings import Cell, Finding, moved
from peftbench.results.watch.quantities import Quantity, Seed, mean


def judge(
    cell: Cell, quantity: Quantity, old: Mapping[Seed, float], new: Mapping[Seed, float], tolerated: float
) -> Finding:
    """Return the verdict on an exact quantity, from its values by seed.

    Seeds that both sides have are compared with each other. Growth in one of them is growth, whatever the others do.
    Without a seed in common, the values compare only if each side has the same one in all its trials.

    Args:
        cell: base model and name.
        quantity: what is compared; it must be exact.
        old: values of the old side, at least one.
        new: values of the new side, at least one.
        tolerated: change up to which it is unchanged, a fraction of the old value.
    """
    both = [seed for seed in old if seed in new]
    rule = "exact" if not tolerated else f"exact, up to {100 * tolerated:g} % tolerated"
    if both:
        pairs = [(old[seed], new[seed]) for seed in both]
    elif len({*old.values()}) == len({*new.values()}) == 1:
        pairs = [(next(iter(old.values())), next(iter(new.values())))]
    else:
        values = {"old": mean(old), "new": mean(new), "trials": (len(old), len(new))}
        why = "the sides have no seed in common, and the trials of a side differ"
        return Finding(*cell, quantity, "cannot tell", rule, reason=why, **values)  # type: ignore[arg-type]
    one, other = (sum(side) / len(side) for side in zip(*pairs, strict=True))
    change = other / one - 1 if one else (0.0 if other == one else float("inf"))
    counting = [b - a for a, b in pairs if abs(b - a) > tolerated * abs(a)]
    trials = (len(pairs),) * 2 if both else (len(old), len(new))
    found = Finding(*cell, quantity, "unchanged", rule, one, other, trials, change)
    if not counting:
        return found
    verdicts = {moved(quantity, each) for each in counting}
    verdict = "regressed" if "regressed" in verdicts else "improved"
    some = f"in {len(counting)} of {len(pairs)} seeds" if len(counting) < len(pairs) else None
    return Finding(*cell, quantity, verdict, rule, one, other, trials, change, reason=some)  # type: ignore[arg-type]
