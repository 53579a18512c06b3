"""The errors that peftbench raises on purpose, messages about unknown names, and whether tracebacks are shown."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable

TRACEBACK = "PEFTBENCH_TRACEBACK"
"""Environment variable: if it is set and not 0, an unexpected exception is raised with its traceback."""


class UserError(Exception):
    """A mistake in the user's input. The message says where, what was given, what is allowed, and the nearest name.

    The command line prints it without a traceback and exits with code 2.
    """


class Unsupported(Exception):
    """The method or an option does not exist for this base model; the trial ends as ``unsupported``."""


class DoesNotFit(Exception):
    """The trial is predicted to need more memory than the budget allows; it ends as ``skipped`` with the sizes.

    Args:
        peak_bytes: the predicted peak of a training step.
        message: the sizes in words.
        loading_bytes: the predicted peak of loading; None if it is not known.
    """

    def __init__(self, peak_bytes: int, message: str, loading_bytes: int | None = None) -> None:
        super().__init__(message)
        self.peak_bytes, self.loading_bytes = peak_bytes, loading_bytes


class Diverged(Exception):
    """A loss, a gradient or an output is NaN or infinite; the trial ends as ``diverged``."""


def shows_traceback() -> bool:
    """Return whether tracebacks are wanted."""
    return os.environ.get(TRACEBACK, "0") not in ("", "0")


def nearest(given: str, allowed: Iterable[str]) -> str | None:
    """Return the allowed name closest to the one given, or None if none is close."""
    names = [str(name) for name in allowed]
    lowered = {name.lower().replace("-", "_"): name for name in names}
    found = difflib.get_close_matches(given.lower().replace("-", "_"), list(lowered), n=1, cutoff=0.6)
    return lowered[found[0]] if found else None


def unknown(kind: str, given: object, allowed: Iterable[str]) -> str:
    """Return ``unknown method 'lorra'; did you mean 'lora'? allowed: ...``; the list comes last, as it may be long."""
    names = sorted(str(name) for name in allowed)
    near = nearest(str(given), names)
    hint = f" did you mean {near!r}?" if near else ""
    return f"unknown {kind} {given!r};{hint} allowed: {', '.join(names)}"
