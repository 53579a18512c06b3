"""The sentence about which differences a table can show."""

from __future__ import annotations

from peftbench.results.crossed_effects.planning import Sensitivity


def sentence(found: Sensitivity) -> str:
    """Return what the table can show, and a warning if it can show none of its differences."""
    told = (
        f"With {found.seeds} seeds and {found.examples:,} examples a difference of {100 * found.detectable:.1f} points "
        f"would be found with a probability of 80 % ({found.comparisons} comparisons, Holm)"
    )
    if not found.undetectable:
        return f"{told}."
    needed = found.seeds_needed
    how = f"it would take about {needed} seeds" if needed else "no number of seeds would do on so few examples"
    return f"{told}; the largest in this table is {100 * found.largest_gap:.1f}: seeds and examples explain it, {how}."
