"""What a search found: each cell's learning rate, chosen on the validation split, and what the choice cost. No torch.

A search is a results folder of its own, ``search`` inside the grid's: its rows are trials like any others.
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
FOLDER = store.SEARCH
"""Of a results folder: where the search for its learning rates is stored."""


@dataclass(frozen=True)
class Candidate:
    """One learning rate of one cell."""

    rate: float
    score: float | None
    """Mean validation score over tasks and seeds, a fraction of 1; None where a trial of it did not end ok."""
    trials: int
    failures: tuple[str, ...]
    """How trials of it ended that are not ok: ``diverged``."""
    wall_seconds: float


@dataclass(frozen=True)
class Choice:
    """A cell's search."""

    cell: str
    method: str
    candidates: tuple[Candidate, ...]
    """By rate, from the smallest."""
    seeds: tuple[int, ...]
    steps: int | None
    """Optimizer steps of each candidate that ended ok."""
    tasks: tuple[str, ...]
    """Those that the rate was chosen on."""

    @property
    def scores(self) -> tuple[float, ...]:
        """The validation scores of the candidates that have one."""
        return tuple(c.score for c in self.candidates if c.score is not None)

    @property
    def spent(self) -> tuple[float, ...]:
        """Every candidate's score; one that failed counts as the worst of the others."""
        return tuple(min(self.scores) if c.score is None else c.score for c in self.candidates) if self.scores else ()

    @property
    def best(self) -> Candidate | None:
        """The candidate with the best score, the smallest rate among equals; None where none ended ok."""
        known = [c for c in self.candidates if c.score is not None]
        return max(known, key=lambda c: (c.score, -c.rate)) if known else None

    def complete(self, rates: Iterable[float]) -> bool:
        """Whether each of these rates has had its trial: none is missing, was killed, out of time or met an error."""
        tried = {c.rate for c in self.candidates if all(Status(failure) in _TRIED for failure in c.failures)}
        return tried.issuperset(rates)

    @property
    def undecided(self) -> bool:
        """Whether several candidates scored alike, and all of them did."""
        return len(self.scores) > 1 and len(set(self.scores)) == 1

    @property
    def edge(self) -> str | None:
        """Whether the best rate is the ``smallest`` or the ``largest`` given, so that a better one may lie beyond.

        One that others equal says nothing of what lies beyond.
        """
        if self.best is None or len(self.candidates) < 2 or self.scores.count(max(self.scores)) > 1:
            return None
        return {0: "smallest", len(self.candidates) - 1: "largest"}.get(self.candidates.index(self.best))


def choices(folder: Path) -> dict[str, Choice]:
    """Return the search of a grid's results folder by cell; none where there was none.

    Args:
        folder: of the grid, not of its search.

    Raises:
        UserError: if the search's rows cannot be read.
    """
    place = folder / FOLDER
    if not (place / "trials").is_dir():
        return {}
    grid = store.recorded_grid(place)
    if not any((place / "trials").glob("*.parquet")):  # nothing of it has ended yet
        return {}
    rows = store.read_trials(place)
    if grid and not rows["key"].isin(grid.keys).any():
        return {}
    rows = rows_of_grid(rows, grid.keys if grid else None)
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows.to_dict("records"):
        found[row["candidate_of"]].append(row)
    tasks = _tasks(rows)
    return {cell: _choice(cell, each, tasks) for cell, each in found.items()}


def expected_best(scores: Sequence[float]) -> list[float]:
    """Return the expected best score after 1, 2, ... candidates, drawn in random order without replacement.

    The expectation of the largest of n out of k known scores: sum over i of C(i - 1, n - 1) / C(k, n) times the i-th
    smallest (Tang et al. 2020, arXiv:2004.13705, section 3; the idea is of Dodge et al. 2019, arXiv:1909.03004). So a
    method that was searched is seen beside one that was not, at the number of trials that each has had.
    """
    ordered, k = sorted(scores), len(scores)
    return [
        math.fsum(math.comb(i, n - 1) * score for i, score in enumerate(ordered)) / math.comb(k, n)
        for n in range(1, k + 1)
    ]


def _choice(cell: str, rows: Sequence[dict[str, Any]], tasks: Sequence[str]) -> Choice:
    by_rate: dict[float, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        by_rate[row["learning_rate"]].append(row)
    return Choice(
        cell,
        rows[0]["method"],
        tuple(_candidate(rate, by_rate[rate], tasks) for rate in sorted(by_rate)),
        tuple(sorted({int(row["seed"]) for row in rows})),
        max((int(row["steps_done"]) for row in rows if row["status"] == "ok"), default=None),
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
    """Return the tasks that the candidates are scored on; the folder may have columns of others."""
    settings = [json.loads(text) for text in rows["settings_json"].dropna().unique()]
    return list(dict.fromkeys(name for one in settings for name in one.get("evaluate", ())))
