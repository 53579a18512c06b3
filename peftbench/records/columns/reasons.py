"""What names and messages of ``trials`` also state in words, as data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated


@dataclass(frozen=True)
class ReasonColumns:
    """What a trial's name and its message are made of."""

    named_settings: Annotated[str | None, "cell without method, rank and precision; empty if that is all of it"] = None
    candidate_of: Annotated[str | None, "cell whose learning-rate search this trial is a candidate of"] = None
    reason: Annotated[str | None, "why a trial is not ok: message without the cell that cannot exist, without log"] = (
        None
    )
    log_file: Annotated[str | None, "log of a trial that met an error, relative to the results folder"] = None
