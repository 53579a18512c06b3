"""The scenes: each makes a fault happen for real and returns what is wrong afterwards, nothing if all is well."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tools.validation.chaos.trial_faults import trial_faults

SCENES: dict[str, Callable[[Path], list[str]]] = {
    "trials that run out of memory, hang or crash": trial_faults,
}
"""By name; the folder is empty."""
