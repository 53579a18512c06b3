"""A plan as JSON: the cells of a suite with what is predicted of each. Numbers have their unit in their name."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from peftbench.commands import plan_time
from peftbench.commands.plan_time import SEARCH, CellTime
from peftbench.planner import cuda_reserve
from peftbench.planner.records import Forecast, Question
from peftbench.records import Trial

if TYPE_CHECKING:
    from peftbench.suite import Suite


_TRAIN = (
    *("batch_size", "micro_batch_size", "learning_rate", "optimizer", "gradient_checkpointing", "logits", "steps"),
    *("epochs", "attention", "offload", "compute", "compile", "kernels"),
)
"""Training settings of each cell."""


@dataclass(frozen=True)
class Said:
    """What a plan says in words."""

    reasons: Mapping[str, str]
    """Cell -> why it cannot run, or has no prediction."""
    defaults: Sequence[str]
    notes: Sequence[str]


def text(whole: Mapping[str, Any]) -> str:
    """Return a plan as the text of a JSON document."""
    return json.dumps(whole, indent=2, ensure_ascii=False)


def of_cells(suite: Suite, trials: Sequence[Trial], said: Said, candidates: int = 0) -> dict[str, Any]:
    """Return a suite's plan without predictions.

    Args:
        suite: the suite, complete.
        trials: its trials.
        said: reasons, defaults and notes.
        candidates: number of trials of the learning-rate search before the grid.
    """
    cells: dict[str, dict[str, Any]] = {}
    for trial in trials:
        cell = cells.setdefault(trial.cell, _cell(trial, said.reasons.get(trial.cell)))
        cell["seeds"] += [] if trial.seed is None else [trial.seed]
        cell["trials"] += 1
    return {
        "suite": suite.name,
        "base": suite.base.source,
        "device": trials[0].device,
        "trials": len(trials),
        "search_trials": candidates,
        "cells": list(cells.values()),
        "defaults": list(said.defaults),
        "notes": list(said.notes),
    }


def _cell(trial: Trial, reason: str | None) -> dict[str, Any]:
    training = trial.training
    train = {key: getattr(training, key) for key in _TRAIN} if training else None
    if train and training:
        train["sequence_length_tokens"] = training.sequence_length
    return {
        "cell": trial.cell,
        "method": trial.method,
        "precision": trial.precision,
        "rank": trial.rank,
        "seeds": [],
        "trials": 0,
        "cannot_run": reason if trial.training or trial.unsupported else None,
        "train": train,
    }


def with_memory(whole: dict[str, Any], found: Sequence[Forecast], asked: Question) -> dict[str, Any]:
    """Return a plan with the predicted memory of each cell."""
    by_cell = {each.trial.cell: each for each in found}
    cells = [{**cell, "memory": _memory(by_cell[cell["cell"]], asked)} for cell in whole["cells"]]
    return {**whole, "budget_bytes": asked.budget, "cells": cells}


def with_time(whole: dict[str, Any], found: Sequence[CellTime], workers: int) -> dict[str, Any]:
    """Return a plan with the predicted time of each cell, of the search and of the whole grid."""
    by_cell = {each.cell: each for each in found}
    cells = [{**cell, "time": _time(by_cell.get(cell["cell"]))} for cell in whole["cells"]]
    search = by_cell.get(SEARCH)
    more = {"grid_seconds": plan_time.total(found, workers), "search_seconds": search and search.total_seconds}
    return {**whole, **more, "cells": cells}


def _time(each: CellTime | None) -> dict[str, Any] | None:
    if each is None:
        return None
    return {
        "step_seconds": each.step_seconds,
        "trial_seconds": each.trial_seconds,
        "total_seconds": each.total_seconds,
        "unknown_because": each.problem if each.total_seconds is None else None,
    }


def _memory(each: Forecast, asked: Question) -> dict[str, Any] | None:
    found = each.found
    if found is None:
        return None
    reserve = cuda_reserve.reserve(each.trial) if asked.reserve is None else asked.reserve
    return {
        "peak_bytes": found.peak_bytes,
        "loading_peak_bytes": found.loading_bytes,
        **({"offloaded_to_host_bytes": found.offloaded_bytes} if found.offloaded_bytes else {}),
        **({"ranks_peak_bytes": list(found.ranks)} if found.ranks else {}),
        **{f"{name}_bytes": size for name, size in found.categories.items()},
        "reserve_bytes": reserve,
        "saved_bytes": found.checkpoint_bytes,
        "base_parameters": found.base_parameters,
        "trainable_parameters": found.trainable_parameters,
        "flop_per_token": found.flops_per_token,
        "fits": each.fits,
        **({f"most_{asked.axis}": each.most} if asked.axis else {}),
        "ways_to_fit": [
            {"settings": dict(lever.settings), "peak_bytes": lever.peak_bytes, "fits": lever.fits}
            for lever in each.levers
        ],
    }
