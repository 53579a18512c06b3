"""How a trial ended."""

from __future__ import annotations

from enum import StrEnum


class Status(StrEnum):
    """How a trial ended. Every trial ends as exactly one of these."""

    OK = "ok"
    UNSUPPORTED = "unsupported"
    OOM = "oom"
    DIVERGED = "diverged"
    INERT = "inert"
    CORRUPT = "corrupt"
    KILLED = "killed"
    TIMEOUT = "timeout"
    ERROR = "error"
    SKIPPED = "skipped"

    @property
    def final(self) -> bool:
        """Whether the same command keeps this row (true) or runs the trial again (false)."""
        return self in FINAL


FINAL = frozenset({Status.OK, Status.UNSUPPORTED, Status.OOM, Status.DIVERGED, Status.INERT, Status.CORRUPT})
