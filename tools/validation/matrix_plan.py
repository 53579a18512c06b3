"""Ask ``plan`` alone about the cells of the matrix: ``python -m tools.validation.matrix_plan [--family NAME ...]``.

No trial runs: each family's tiny base model is made, ``plan`` says which of its cells are unsupported, and that is
compared with how the stored trials ended. It takes some seconds of a core for each family. ``--write`` stores which
cells ``plan`` names in ``results/reference/architectures.json``. A cell that ended ok and that ``plan`` refuses is a
fault, and the exit code is then 1.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from tools.validation import matrix, matrix_cell


def ask(home: Path, cells: list[str], folder: Path) -> matrix_cell.Outcome:
    """Return what ``plan`` says about cells of a base model, as a mapping of cell to reason or None."""
    from peftbench.runner import prepare
    from tests.support import trials

    made = {}
    for cell in cells:
        name, storage = cell.split()
        place = folder / cell.replace(" ", "-")
        place.mkdir(parents=True)
        made[cell] = trials.trial(home, place, name, storage, training={"steps": 2})
    said = prepare.impossible(list(made.values()))
    return matrix_cell.Outcome("ok", measured={cell: said.get(trial.cell) for cell, trial in made.items()})


def family(name: str, cells: list[str]) -> matrix_cell.Outcome:
    """Make a family's tiny base model and return what ``plan`` says, each in a process of its own."""
    with tempfile.TemporaryDirectory() as scratch:
        home, log = Path(scratch) / "base", Path(scratch) / "log"
        made = matrix_cell.forked(partial(matrix.make, name, home), log)
        return made if made.status != "ok" else matrix_cell.forked(partial(ask, home, cells, Path(scratch)), log)


def judged(row: Mapping[str, Mapping[str, Any]], said: Mapping[str, str | None]) -> dict[str, str]:
    """Return for each cell that is unsupported, or that ``plan`` refuses, how the two agree.

    ``named``: in the words of the run. ``other words``. ``not named``. ``false``: it ended ok.
    """
    found = {}
    for cell, outcome in row.items():
        if outcome["status"] == "unsupported":
            same = said[cell] == outcome["reason"]
            found[cell] = "named" if same else "other words" if said[cell] else "not named"
        elif said[cell]:
            found[cell] = "false"
    return found


def main() -> int:
    """Print how many cells are named, and by phase and reason those that are not."""
    whole = matrix.stored()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", nargs="+", choices=list(whole["cells"]), metavar="NAME", help="only these families")
    parser.add_argument("--write", action="store_true", help="store which cells plan names")
    asked = parser.parse_args()
    os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    matrix_cell.preload()
    counts: Counter[str] = Counter()
    left: Counter[str] = Counter()
    for name in asked.family or list(whole["cells"]):
        row = whole["cells"][name]
        outcome = family(name, list(row))
        if outcome.status != "ok":
            print(name, outcome.status, outcome.reason, flush=True)
            counts["families not asked"] += 1
            continue
        for cell, how in judged(row, outcome.measured).items():
            counts[how] += 1
            row[cell]["planned"] = how == "named" and row[cell]["status"] == "unsupported"
            if how in ("other words", "false"):
                print(f"{name} {cell}: {how}: {outcome.measured[cell]} | {row[cell]['reason']}", flush=True)
            elif how == "not named":
                left[f"{row[cell]['phase']}: {matrix.footnote(row[cell])}"] += 1
    print(", ".join(f"{count} {how}" for how, count in sorted(counts.items())))
    print("\n".join(f"{count} not named, in phase {why}" for why, count in left.most_common()))
    if asked.write:
        matrix.STORED.write_text(matrix.as_text(whole))
    return 1 if counts["false"] else 0


if __name__ == "__main__":
    sys.exit(main())
