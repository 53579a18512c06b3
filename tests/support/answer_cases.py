"""Made-up results folders of which the right answer is known. No torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from peftbench.records import ExampleRow, Result
from peftbench.results.store import record_grid
from tests.support.results_factory import make_result, store

EXAMPLES = 400
COMMAND = "peftbench run suites/quickstart.yaml"


def trials(cell: str, right: Sequence[float], task: str = "judge", **columns: Any) -> list[Result]:
    """Return the trials of a cell: one for each seed, with this share of the examples right, the first ones.

    So cells of equal shares are right on the same examples. ``base fp32`` has one trial without a seed.
    """
    method, precision = cell.split()[0], cell.split()[-1]
    rank = next((int(word[2:]) for word in cell.split() if word.startswith("r=")), None)
    found = []
    for seed, share in enumerate(right):
        count = round(share * EXAMPLES)
        made = make_result(
            cell,
            method,
            precision,
            rank,
            None if method == "base" else seed,
            "ok",
            {task: count / EXAMPLES},
            examples=0,
            **columns,
        )
        examples = tuple(
            ExampleRow(made.row.key, task, place, "", "yes", "", float(place < count)) for place in range(EXAMPLES)
        )
        found.append(dataclasses.replace(made, examples=examples))
    return found


def folder(place: Path, *cells: Sequence[Result], command: str = COMMAND, task: str = "judge") -> Path:
    """Write a results folder of some cells, with the command that ran them."""
    results = [one for cell in cells for one in cell]
    store(place, *results, tasks=(task,))
    record_grid(place, [one.row.key for one in results], command)
    return place
