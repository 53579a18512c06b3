"""The note on trials that were measured on a busy machine."""

from __future__ import annotations

from peftbench.records.wording import plural
from peftbench.results.busy_machine import BusyTrials, Measured


def sentence(found: BusyTrials, of: Measured = "train") -> str:
    """Return one sentence about the trials that were measured on a busy machine."""
    what = "Times" if of == "train" else "Rates and latencies"
    return (
        f"{what} of {found.count} of {plural(found.known, 'trial')} are unreliable: the machine was busy (threads "
        f"waited for a CPU in up to {100 * found.largest_share:.0f} % of their time)."
    )
