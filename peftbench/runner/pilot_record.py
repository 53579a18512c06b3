"""What a pilot took, and where it is kept for later commands on this machine. No torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from peftbench.results import cache

NO_STEP = "its pilot has no step after the first ones (train.untimed_steps), which are slower"
"""Why the time of a longer training is not known."""
NO_TIME = "not measured, as the time for measuring was over"
"""Why a pilot is missing, or was stopped before its own limit."""
_MOST = 2000
"""Most shapes that are kept."""


@dataclass(frozen=True)
class Measured:
    """What a pilot took."""

    fixed_seconds: float = 0.0
    """Set-up, checks, accounting and saving."""
    forecast_seconds: float = 0.0
    """Predicting memory, which only a cell's first trial does."""
    inference_seconds: float = 0.0
    """Measuring inference cost, which only a cell's first trial does."""
    first_steps_seconds: float = 0.0
    """The first steps, which are slower."""
    first_steps: int = 0
    step_seconds: float | None = None
    """A later step; None if nothing trains, or no step ended in time."""
    tokens_per_step: float | None = None
    validation_seconds_per_example: float = 0.0
    """Validation loss of one example."""
    scoring_seconds: float | None = None
    """Scoring apart from forward passes; None if scoring did not end in time."""
    seconds_per_character: float = 0.0
    """Forward passes of scoring, for each character of the scored texts."""
    retention_seconds: float = 0.0
    load_seconds: float = 0.0
    """The part of ``fixed_seconds`` in loading the base model."""
    problem: str | None = None
    """Why something is not known; of a trial that ends unsupported, the reason."""
    unsupported: bool = False
    """Whether the trial ends unsupported, which takes ``fixed_seconds``."""
    incomplete: str | None = None
    """Why the time is known in part only, so that a trial takes at least that."""
    made_by: str = ""
    """The command that measured it; empty if it is not known."""


def store(found: Mapping[str, Measured], made_by: str = "plan --time") -> None:
    """Keep what pilots took, for a later run on this machine.

    Args:
        found: shape -> what its pilot took.
        made_by: the command that ran the pilots.
    """
    kept = {**stored(), **{n: replace(each, made_by=made_by) for n, each in found.items() if each.problem != NO_TIME}}
    text = json.dumps({name: asdict(each) for name, each in list(kept.items())[-_MOST:]}, indent=1)
    with suppress(OSError):  # a run then has no prediction
        cache.keep(_file(), text)


def stored() -> dict[str, Measured]:
    """Return what pilots took on this machine; empty if there were none, or they cannot be read."""
    try:
        found = json.loads(_file().read_text(encoding="utf-8"))
        return {name: Measured(**each) for name, each in found.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _file() -> Path:
    return cache.folder() / "pilots.json"
