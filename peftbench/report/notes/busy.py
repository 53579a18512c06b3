"""The sentence about trials that were measured on a busy machine."""

from __future__ import annotations

from peftbench.results.busy_machine import BusyTrials, Measured


def sentence(found: BusyTrials, of: Measured = "train") -> str:
    """Return one sentence about the trials that were measured on a busy machine."""
    which = f"{found.count} of {found.known} trial{'s' * (found.known > 1)}"
    what = "Times" if of == "train" else "Rates and latencies"
    return (
        f"{what} of {which} were measured on a busy machine (threads waited for a CPU in up to "
        f"{100 * found.largest_share:.0f} % of their time): do not trust them."
    )
