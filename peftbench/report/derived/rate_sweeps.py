"""Cells that differ in nothing but their learning rate, as sweeps, and their best rates."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from peftbench.records import Status
from peftbench.report.collect import Cell, Results
from peftbench.report.names import titled
from peftbench.results.best_rates import FEWEST, BestRate, Losses, Ratio, best_rate, ratio
from peftbench.results.rows import is_number
from peftbench.results.settings import settings_of

_REFERENCE = "full"
"""The method whose best rate the others' are compared with."""
_PARTS = ("layers", "modules")
"""Options of full fine-tuning that leave weights out."""
_RATE = re.compile(r" lr=\S+")
VALIDATION, SCORE = "the loss on validation after the last step", "1 minus the mean score"
"""What the best rate has the lowest of."""


@dataclass(frozen=True)
class Sweep:
    """Cells that differ in nothing but their learning rate."""

    title: str
    method: str
    precision: str
    rates: tuple[float, ...]
    losses: Losses
    """Of the seeds in which every rate was run."""
    measure: str
    """``VALIDATION`` or ``SCORE``."""
    base: str = ""
    """Name of the base model."""
    is_whole: bool = True
    """Whether all weights are trained, if the method is full fine-tuning."""

    @property
    def best(self) -> tuple[BestRate, ...]:
        """The best rate of each seed that has one."""
        found = (best_rate(each) for each in self.losses.values())
        return tuple(each for each in found if each is not None)


def sweeps(results: Results) -> tuple[Sweep, ...]:
    """Return the sweeps over at least three learning rates, in the order of the cells.

    All are judged by the loss on validation if every trial that ended ok has one, else by the scores.
    """
    groups: dict[str, list[Cell]] = {}
    for cell in results.cells:
        if not cell.is_base and cell.rows:
            groups.setdefault(_but_the_rate(cell), []).append(cell)
    swept = [cells for cells in groups.values() if len({_rate(row) for c in cells for row in c.rows}) >= FEWEST]
    last = _last_validation_losses(results)
    trained = [row for cells in swept for cell in cells for row in cell.ok_rows]
    by_loss = bool(trained) and all(row["key"] in last for row in trained)
    precisions: dict[str, set[str]] = {}
    for cell in results.cells:
        precisions.setdefault(cell.method, set()).add(cell.precision)
    return tuple(_sweep(results, cells, last if by_loss else None, precisions) for cells in swept)


def to_reference(found: Sequence[Sweep], sweep: Sweep) -> Ratio | None:
    """Return the ratio of a sweep's best rate to that of full fine-tuning of the same base model.

    It is that at the sweep's precision, or else at the only one. None if there is none, or several (by another batch,
    say), of which none is the one to compare with.
    """
    whole = [each for each in found if each.method == _REFERENCE and each.is_whole and each.base == sweep.base]
    others = [each for each in whole if each.precision == sweep.precision] or whole
    if sweep.method == _REFERENCE or len(others) != 1:
        return None
    return ratio(sweep.losses, others[0].losses)


def _but_the_rate(cell: Cell) -> str:
    settings = settings_of(cell.rows[0]["settings_json"])
    settings.pop("train.learning_rate", None)
    return json.dumps([cell.summary.base, settings], sort_keys=True, default=str)


def _rate(row: dict[str, Any]) -> float | None:
    return float(row["learning_rate"]) if is_number(row["learning_rate"]) else None


def _sweep(
    results: Results, cells: Sequence[Cell], last: dict[str, float] | None, precisions: dict[str, set[str]]
) -> Sweep:
    rows = [row for cell in cells for row in cell.rows if is_number(row["seed"]) and _rate(row) is not None]
    rates = sorted({_rate(row) for row in rows})  # type: ignore[type-var]
    each: dict[int, dict[float, float | None]] = {}
    for row in rows:
        each.setdefault(int(row["seed"]), {})[_rate(row)] = _loss(results, row, last)  # type: ignore[index]
    first = cells[0]
    name = titled(first.summary.cell, first.method, first.precision, precisions[first.method]) or first.name
    return Sweep(
        _RATE.sub("", name),
        first.method,
        first.precision,
        tuple(rates),  # type: ignore[arg-type]
        {seed: losses for seed, losses in each.items() if set(losses) == set(rates)},
        SCORE if last is None else VALIDATION,
        first.summary.base,
        not any(settings_of(first.rows[0]["settings_json"]).get(f"options.{name}") for name in _PARTS),
    )


def _loss(results: Results, row: dict[str, Any], last: dict[str, float] | None) -> float | None:
    if row["status"] != Status.OK.value:
        return None
    if last is not None:
        return last[row["key"]]
    scores = [row.get(f"score_{task}") for task in results.tasks]
    known = [score for score in scores if score is not None and is_number(score)]
    return 1 - fmean(known) if known and len(known) == len(scores) else None


def _last_validation_losses(results: Results) -> dict[str, float]:
    """Return the last validation loss of each trial that has any."""
    steps = results.steps
    if not len(steps) or "validation_loss" not in steps:
        return {}
    known = steps[steps["validation_loss"].notna()].sort_values("step", kind="stable")
    return {str(key): float(loss) for key, loss in known.groupby("key")["validation_loss"].last().items()}
