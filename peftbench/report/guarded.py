"""Parts of a report that fail alone: a note names the part and the error, and everything else is there."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from peftbench.errors import TRACEBACK, shows_traceback

T = TypeVar("T")
_LONGEST = 200
"""Characters of an error's message in a note."""


def guarded(what: str, make: Callable[[], T], failed: Callable[[str], T]) -> T:
    """Return what a function makes; if it fails, what stands in its place.

    A part that fails is a mistake in the code, so the exception is raised where ``PEFTBENCH_TRACEBACK`` asks for it.

    Args:
        what: the part as a note names it.
        make: makes it.
        failed: makes what is shown instead, from a note that names the part and the error.
    """
    try:
        return make()
    except Exception as error:
        if shows_traceback():
            raise
        lines = str(error).splitlines() or [""]
        why = f"{type(error).__name__}: {lines[0][:_LONGEST]}".rstrip(": ")
        return failed(f"Not shown: {what} ({why}). This is a mistake in peftbench; {TRACEBACK}=1 shows where.")
