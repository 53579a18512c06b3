"""``peftbench compare``: what regressed, improved, is unchanged or cannot be told between two nights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftbench.commands import FAILED, NOTHING_JUDGED

if TYPE_CHECKING:
    from peftbench.results.watch.comparison import Comparison


def compared(old: Path, new: Path, given: Mapping[str, Any]) -> Comparison:
    """Return the comparison of two results folders.

    Args:
        old: the results folder to compare with.
        new: the results folder to judge.
        given: keys of ``watch:`` with values that override those of the suites.

    Raises:
        UserError: if a key or value is wrong, or a folder holds no results.
    """
    from peftbench.records.watch import DEFAULT
    from peftbench.results.watch import comparison, night
    from peftbench.suite.watch import overridden

    overridden(DEFAULT, given)  # a wrong option is told before anything is read
    sides = night.read(old), night.read(new)
    recorded = sides[1].watch or sides[0].watch or DEFAULT
    return comparison.compare(*sides, overridden(recorded, given))


def command(old: Path, new: Path, given: Mapping[str, Any], format: str, output: Path | None) -> int:
    """Print or write the comparison of two results folders and return the exit code.

    Args:
        old: the results folder to compare with.
        new: the results folder to judge.
        given: keys of ``watch:`` with values that override those of the suites.
        format: one of ``report.nights.FORMATS``.
        output: the file to write; None to print.

    Raises:
        UserError: as ``compared`` does, or if the file cannot be written.
    """
    from peftbench.report import nights, page

    if output is not None:
        for folder in (old, new):
            page.refuse_inside(folder, output)
    found = compared(old, new, given)
    text = nights.written(found, format)
    if output is None:
        print(text, end="")
    else:
        page.save(text, output)
        print(nights.heading(found))
    return exit_code(found)


def exit_code(found: Comparison) -> int:
    """Return 0 if something was judged and nothing regressed, 1 if something did, 3 if nothing could be judged."""
    return {True: 0, False: FAILED, None: NOTHING_JUDGED}[found.verdict]
