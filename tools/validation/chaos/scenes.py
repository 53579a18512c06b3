"""The scenes: each makes a fault happen for real and returns what is wrong afterwards, nothing if all is well."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tools.validation.chaos.clock_jumps import clock_jumps
from tools.validation.chaos.shared_folder import full_disk, read_only, two_runs
from tools.validation.chaos.trial_faults import trial_faults

SCENES: dict[str, Callable[[Path], list[str]]] = {
    "trials": trial_faults,
    "two runs": two_runs,
    "full disk": full_disk,
    "read-only disk": read_only,
    "clock": clock_jumps,
}
"""By name; the folder is empty."""
