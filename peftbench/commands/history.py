"""``peftbench history`` and ``peftbench import``: many nights, and nights of other benchmarks."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftbench.commands import FAILED, NOTHING_JUDGED, counts
from peftbench.errors import UserError

if TYPE_CHECKING:
    from peftbench.results.history.changes import History

FORMATS = ("text", "md", "json", "html")


@dataclass(frozen=True)
class Shown:
    """How a history is shown."""

    format: str = "text"
    output: Path | None = None
    """The file to write; None: ``reports/NAME-history.html`` for the page; the other formats are printed."""


def history(nights: Sequence[Path], shown: Shown, last: str | None) -> int:
    """Show what changed over a row of nights.

    Args:
        nights: results folders, or folders of them.
        shown: format and file.
        last: number of newest nights in which a change must have begun to fail; None for all.

    Returns:
        The exit code: 0 if nothing regressed, 1 if something did, 3 if nothing could be judged.

    Raises:
        UserError: if a path is no results folder and no folder of them, or ``last`` is no number of nights.
    """
    newest = None if last is None else counts.read(last)
    if last is not None and newest is None:
        raise UserError(f"--last {last[:60]}: expected a number of nights from 1 on")
    from peftbench.report.history import page, text
    from peftbench.report.page import save

    told = found(nights, {}, newest)
    write = {"text": text.text, "md": text.markdown, "json": text.as_json, "html": page.html}[shown.format]
    output = shown.output
    if output is None and shown.format == "html":
        output = Path("reports") / f"{nights[0].resolve().name}-history.html"
    if output is None:
        print(write(told), end="")
    else:
        save(write(told), output)
        print(f"{text.text(told) if shown.format == 'html' else ''}written: {output}")
    return FAILED if told.verdict is False else 0 if told.verdict else NOTHING_JUDGED


def found(nights: Sequence[Path], given: Mapping[str, Any], last: int | None) -> History:
    """Return what changed over a row of nights.

    Args:
        nights: results folders, or folders of them.
        given: keys of ``watch:`` with values that override those of the newest night's suite.
        last: number of newest nights in which a change must have begun to count; None for all.

    Raises:
        UserError: if a key or value is wrong, or a path is no results folder and no folder of them.
    """
    from peftbench.records.watch import DEFAULT
    from peftbench.results import history as watched
    from peftbench.suite.watch import overridden

    overridden(DEFAULT, given)  # a wrong key is told before anything is read
    return watched.history(nights, last=last, changed=lambda watch: overridden(watch, given))


def places(given: str | os.PathLike[str]) -> list[Path]:
    """Return the folders of nights that an argument names: itself, or what lies at a URL."""
    from peftbench.results import remote

    text = os.fspath(given)
    return remote.nights(text) if remote.is_url(text) else [Path(given)]
