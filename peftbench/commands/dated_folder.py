"""A results folder with the day in its name, so that each night of a grid has a folder of its own."""

from __future__ import annotations

import os
import re
from datetime import UTC, datetime
from pathlib import Path

from peftbench.errors import UserError
from peftbench.results import remote, remote_names

DATE = "{date}"
"""Stands for the day on which the command starts, in UTC, like ``2026-11-29``."""


def results_folder(given: str | os.PathLike[str] | None, now: datetime | None = None) -> Path | str | None:
    """Return the results folder, or the URL as text, that was asked for, with ``{date}`` replaced; None if none was.

    Call it once per command: a run that passes midnight stays in the folder in which it began.

    Args:
        given: a path or a URL, possibly with ``{date}`` in it.
        now: the time that counts as now; None for the clock.

    Raises:
        UserError: for any other name in braces. It would be a folder's real name, in which the next night would find
            every trial finished.
    """
    if given is None or os.fspath(given) == "":
        return None
    text = os.fspath(given)
    unknown = [name for name in re.findall(r"\{[^{}/]*\}", text) if name != DATE]
    if unknown:
        shown = remote_names.without_secrets(text) if remote.is_url(text) else text
        raise UserError(f"--results {shown}: {unknown[0]} stands for nothing; allowed: {DATE}")
    return remote.named(text.replace(DATE, (now or datetime.now(UTC)).strftime("%Y-%m-%d")))
