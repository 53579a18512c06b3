"""The note on trials that were measured on a busy machine."""

from __future__ import annotations

from peftbench.records.wording import plural
from peftbench.results.busy_machine import MOST_WAITING, BusyTrials, Measured


def sentence(found: BusyTrials, of: Measured = "train") -> str:
    """Return one sentence about the trials that were measured on a busy machine."""
    what = "Times" if of == "train" else "Rates and latencies"
    return (
        f"{what} of {found.count} of {plural(found.known, 'trial')} are unreliable: the machine was busy "
        f"({why(found, f'threads waited for a CPU in up to {100 * found.largest_share:.0f} % of their time')})."
    )


def why(found: BusyTrials, waited: str = "", shared: str = "another process used the GPU") -> str:
    """Return by what the machine was busy, the CPUs and the GPU.

    Args:
        found: the trials.
        waited: what is said of trials that waited for a CPU; by default which these are.
        shared: what is said of trials that shared the GPU.
    """
    waited = waited or f"threads waited for a CPU in more than {100 * MOST_WAITING:.0f} % of their time"
    return "; ".join([*[waited] * (found.largest_share > 0), *[shared] * (found.beside_others > 0)])
