"""The outcome of a learning-rate search: each cell's candidates and the rate selected on the validation split.

A search is a results folder of its own, ``search`` inside the folder of its grid. Its rows are trials like any others.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftbench.records import FINAL, Status
from peftbench.results import store
from peftbench.results.rows import is_number, rows_of_grid

if TYPE_CHECKING:
    import pandas as pd

_TRIED = FINAL | {Status.SKIPPED}
"""Statuses after which a candidate is not run again."""
FOLDER = store.SEARCH
"""Inside a results folder: the results folder of the search for its learning rates."""


@dataclass(frozen=True)
class Candidate:
    """One learning rate of one cell."""

    rate: float
    score: float | None
    """Mean validation score over tasks and seeds, a fraction of 1; None if one of its trials did not end ok."""
    trials: int
    failures: tuple[str, ...]
    """Statuses of its trials that are not ok, such as ``diverged``."""
    wall_seconds: float


@dataclass(frozen=True)
class CellSearch:
    """The learning-rate search of one cell."""

    cell: str
    method: str
    candidates: tuple[Candidate, ...]
    """Sorted by rate, the smallest first."""
    seeds: tuple[int, ...]
    steps: int | None
    """Optimizer steps of the candidates that ended ok; None if none did."""
    tasks: tuple[str, ...]
    """The tasks whose validation scores select the rate."""

    @property
    def scores(self) -> tuple[float, ...]:
        """The validation scores of the candidates that have one."""
        return tuple(c.score for c in self.candidates if c.score is not None)

    @property
    def scores_with_failures(self) -> tuple[float, ...]:
        """One score per candidate; one that failed counts as the worst of the others. Empty if all failed."""
        return tuple(min(self.scores) if c.score is None else c.score for c in self.candidates) if self.scores else ()

    @property
    def best(self) -> Candidate | None:
        """The candidate with the best score, the one with the smallest rate among equals; None if none ended ok."""
        known = [c for c in self.candidates if c.score is not None]
        return max(known, key=lambda c: (c.score, -c.rate)) if known else None

    def complete(self, rates: Iterable[float]) -> bool:
        """Return whether each of these rates was tried: none is missing, was killed, timed out or ended in error."""
        tried = {c.rate for c in self.candidates if _TRIED.issuperset(c.failures)}
        return tried.issuperset(rates)

    @property
    def undecided(self) -> bool:
        """Whether there are several scores and all are equal."""
        return len(self.scores) > 1 and len(set(self.scores)) == 1

    @property
    def edge(self) -> str | None:
        """Whether the best rate is the ``smallest`` or the ``largest`` candidate, so that a better one may lie beyond.

        None if neither is the case, or if another candidate has the same score.
        """
        if self.best is None or len(self.candidates) < 2 or self.scores.count(max(self.scores)) > 1:
            return None
        return {0: "smallest", len(self.candidates) - 1: "largest"}.get(self.candidates.index(self.best))


def searches(folder: Path) -> dict[str, CellSearch]:
    """Return the learning-rate search of each cell of a grid; empty if there was none.

    Args:
        folder: results folder of the grid, not of its search.

    Raises:
        UserError: if the search's rows cannot be read.
    """
    place = folder / FOLDER
    if not (place / "trials").is_dir():
        return {}
    grid = store.recorded_grid(place)
    if not any((place / "trials").glob("*.parquet")):  # no candidate has ended yet
        return {}
    rows = store.read_trials(place)
    if grid and not rows["key"].isin(grid.keys).any():
        return {}
    rows = rows_of_grid(rows, grid.keys if grid else None)
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows.to_dict("records"):
        if isinstance(row["candidate_of"], str) and is_number(row["learning_rate"]) and row["learning_rate"] > 0:
            found[row["candidate_of"]].append(row)
    tasks = _tasks(rows)
    return {cell: _search(cell, each, tasks) for cell, each in found.items()}


def expected_best(scores: Sequence[float]) -> list[float]:
    """Return the expected best score after 1, 2, ... candidates, drawn in random order without replacement.

    The expected largest of n out of k known scores is the sum over i of C(i - 1, n - 1) / C(k, n) times the i-th
    smallest. It shows a method that was searched beside one that was not, at the number of trials that each has used.

    References: Tang et al. 2020, arXiv:2004.13705, section 3, after Dodge et al. 2019, arXiv:1909.03004.
    """
    ordered, k = sorted(scores), len(scores)
    return [
        math.fsum(math.comb(i, n - 1) * score for i, score in enumerate(ordered)) / math.comb(k, n)
        for n in range(1, k + 1)
    ]


def _search(cell: str, rows: Sequence[dict[str, Any]], tasks: Sequence[str]) -> CellSearch:
    by_rate: dict[float, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        by_rate[row["learning_rate"]].append(row)
    return CellSearch(
        cell,
        rows[0]["method"],
        tuple(_candidate(rate, by_rate[rate], tasks) for rate in sorted(by_rate)),
        tuple(sorted({int(row["seed"]) for row in rows if is_number(row["seed"])})),
        max((int(r["steps_done"]) for r in rows if r["status"] == "ok" and is_number(r["steps_done"])), default=None),
        tuple(tasks),
    )


def _candidate(rate: float, rows: Sequence[dict[str, Any]], tasks: Sequence[str]) -> Candidate:
    failures = tuple(row["status"] for row in rows if row["status"] != "ok")
    scores = [row[f"score_{task}"] for row in rows for task in tasks]
    known = not failures and scores and all(is_number(score) for score in scores)
    return Candidate(
        rate,
        math.fsum(scores) / len(scores) if known else None,
        len(rows),
        failures,
        math.fsum(row["wall_seconds"] for row in rows if is_number(row["wall_seconds"])),
    )


def _tasks(rows: pd.DataFrame) -> list[str]:
    """Return the tasks that the candidates are scored on; the folder may have columns of other tasks."""
    settings = [json.loads(text) for text in rows["settings_json"].dropna().unique()]
    return list(dict.fromkeys(name for one in settings for name in one.get("evaluate", ())))
