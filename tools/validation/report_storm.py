"""Draw thousands of results folders and check that every report, table and comparison of them is written.

    python -m tools.validation.report_storm --folders 2000 [--first 0] [--pages 10]

The folders are small, degenerate, incomplete, or hold numbers that are none (``tests/support/odd_results.py``). Each is
read as a user's would be; then its tables are written in every format, it is compared with the one before and with
itself, and of every tenth (``--pages``) the page is made. Rows that cannot stand in one table may be refused with a
``UserError``. Anything else that is raised is a fault, and so is a statistic that could not be computed from numbers
that peftbench itself can write. About three folders a second.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from peftbench import report
from peftbench.errors import TRACEBACK, UserError
from peftbench.report import collect, page
from peftbench.report.nights import FORMATS, written
from peftbench.results.watch.comparison import compare

NOT_COMPUTED = "Not computed:"
_STRETCH = 50
"""Folders between two lines of progress."""


@dataclass
class Tally:
    """Counts of what was written and refused, and the faults found."""

    counts: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    def check(self, what: str, where: str, make: Callable[[], Any]) -> Any:
        """Count what a call gives; return it, or None if it raises."""
        try:
            found = make()
        except UserError:
            self.counts[f"{what} refused"] += 1
        except Exception:
            self.faults.append(f"{where}, {what}:\n{traceback.format_exc()}")
        else:
            self.counts[what] += 1
            return found
        return None


def storm(place: Path, seeds: range, pages: int) -> Tally:
    """Make and report the folders of these seeds; of every ``pages``-th also the page."""
    from tests.support import odd_results

    tally = Tally()
    before: Path | None = None
    for seed in seeds:
        folder = place / f"results{seed}"
        made = odd_results.make(folder, seed)
        where = f"seed {seed}"
        results = tally.check("read", where, lambda folder=folder: collect.collect(folder))  # type: ignore[misc]
        for kind in report.FORMATS if results else ():
            text = tally.check(kind, where, lambda r=results, k=kind: report._text(r, k))  # type: ignore[misc]
            if text and NOT_COMPUTED in text and not made.odd:
                tally.faults.append(f"{where}, {kind}: a statistic of ordinary numbers was not computed")
            if text and kind == "csv" and not made.odd and len(text.splitlines()) < 2:
                tally.faults.append(f"{where}: the table has no row")
        if results and seed % pages == 0:
            tally.check("page", where, lambda r=results: page.html(r))  # type: ignore[misc]
        for other in (before, folder) if before else ():
            tally.check(
                "comparison", where, lambda a=other, b=folder: [written(compare(a, b), each) for each in FORMATS]
            )  # type: ignore[misc]
        if before:
            shutil.rmtree(before)
        before = folder
    return tally


def main() -> int:
    """Run the storm; return 1 if a fault was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folders", type=int, default=2000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--pages", type=int, default=10)
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    os.environ[TRACEBACK] = "1"  # a part that fails is raised, and no note
    with tempfile.TemporaryDirectory() as name:
        tally, last = Tally(), asked.first + asked.folders
        for first in range(asked.first, last, _STRETCH):
            found = storm(Path(name), range(first, min(first + _STRETCH, last)), asked.pages)
            tally.counts += found.counts
            tally.faults += found.faults
            done = min(first + _STRETCH, last) - asked.first
            print("\n".join([*found.faults, f"{done:,} folders, {len(tally.faults)} faults"]), flush=True)
    print(", ".join(f"{count:,} {what}" for what, count in sorted(tally.counts.items())))
    print(f"{asked.folders:,} folders, {sum(tally.counts.values()):,} outputs, {len(tally.faults)} faults")
    return 1 if tally.faults else 0


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    sys.exit(main())
