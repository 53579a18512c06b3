"""Compare the times that ``plan --time`` predicts with those of the real trials, cell by cell.

``python -m tools.validation.time_accuracy [SUITE] [--seeds N] [--set KEY=VALUE] [--only FIELD=VALUE]`` runs ``peftbench
plan --time`` and then ``peftbench run`` with the same options, each as a user would, in a folder that is deleted, and
prints for each cell the predicted and the measured seconds of its trials and the error, and at the end the median and
the largest. Take an idle machine: what else runs, and stops running, counts as error.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peftbench.records.units import seconds as shown
from peftbench.report import text_table
from peftbench.results import store

SEARCH = "learning-rate search"


@dataclass(frozen=True)
class Cell:
    """The time of the trials of a cell."""

    name: str
    predicted: float | None
    """Seconds; None if the plan does not know them."""
    measured: float | None
    """Seconds; None if a trial did not end ok."""

    @property
    def error(self) -> float | None:
        """The predicted time relative to the measured one, minus 1."""
        return self.predicted / self.measured - 1 if self.predicted and self.measured else None


def measure(options: Sequence[str], folder: Path) -> list[Cell]:
    """Plan and run a suite with some options of the command line; return its cells.

    Args:
        options: the suite and what is set.
        folder: where the results and the pilots are stored.

    Raises:
        SystemExit: if one of the commands ends with an error of the suite, which it has printed.
    """
    results = folder / "results"
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache")}
    command = [sys.executable, "-m", "peftbench"]
    asked = [*command, "plan", *options, "--time", "--json"]
    planned = subprocess.run(asked, env=environment, stdout=subprocess.PIPE)
    if planned.returncode:
        sys.exit(planned.returncode)
    ended = subprocess.run([*command, "run", *options, "-o", str(results)], env=environment, stdout=sys.stderr)
    if ended.returncode not in (0, 1):  # 1: a trial failed, which is a row
        sys.exit(ended.returncode)
    return list(compared(json.loads(planned.stdout), results))


def compared(plan: Mapping[str, Any], results: Path) -> Iterator[Cell]:
    """Yield each cell of a plan with what its trials took, and the search if there was one."""
    if plan["search_seconds"] is not None or (results / "search").is_dir():
        took = list(_took(results / "search").values())
        yield Cell(SEARCH, plan["search_seconds"], None if None in took else sum(each or 0.0 for each in took))
    measured = _took(results)
    for cell in plan["cells"]:
        if cell["time"] is not None:
            yield Cell(cell["cell"], cell["time"]["total_seconds"], measured.get(cell["cell"]))


def _took(folder: Path) -> dict[str, float | None]:
    """Return the seconds of all trials of each cell of a results folder; None for a cell with one that is not ok."""
    trials = store.read(folder).trials
    return {
        str(cell): float(rows["wall_seconds"].sum()) if (rows["status"] == "ok").all() else None
        for cell, rows in trials.groupby("cell")
    }


def lines(cells: Sequence[Cell]) -> list[str]:
    """Return the table and what follows from it."""
    rows = [["cell", "predicted", "measured", "error"]]
    for cell in cells:
        error = "–" if cell.error is None else f"{cell.error:+.0%}"
        rows.append([cell.name, shown(cell.predicted), shown(cell.measured), error])
    known = {cell.name: cell.error for cell in cells if cell.error is not None}
    text = list(text_table.lines(rows, text_table.Layout(right=(1, 2, 3))))
    if not known:
        return [*text, "no cell has both times"]
    worst = max(known, key=lambda name: abs(known[name]))
    both = [cell for cell in cells if cell.name in known]
    predicted, measured = (sum(values) for values in zip(*((c.predicted, c.measured) for c in both), strict=True))
    return [
        *text,
        f"error of a cell: median {statistics.median(map(abs, known.values())):.0%}, largest {known[worst]:+.0%} "
        f"({worst}); all {len(both)} together: {shown(predicted)} predicted, {shown(measured)} measured "
        f"({predicted / measured - 1:+.0%})",
    ]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite", nargs="?", default="quickstart")
    parser.add_argument("--seeds", help="as for `peftbench run`")
    for name in ("set", "only"):
        parser.add_argument(f"--{name}", action="append", default=[], help="as for `peftbench run`")
    given = parser.parse_args()
    options = [given.suite, *(["--seeds", given.seeds] if given.seeds else [])]
    options += [word for name in ("set", "only") for value in getattr(given, name) for word in (f"--{name}", value)]
    with tempfile.TemporaryDirectory(prefix="peftbench-times-") as folder:
        print("\n".join(lines(measure(options, Path(folder)))))


if __name__ == "__main__":
    main()
