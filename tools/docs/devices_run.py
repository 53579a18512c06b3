"""The table of ``docs/several_devices.md`` that is measured: the committed run of suites/parallel.yaml."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from peftbench.results.busy_machine import is_void
from peftbench.results.store import reading
from tools.docs.suite_document import NONE, table

RESULTS = Path(__file__).resolve().parents[2] / "results" / "reference" / "parallel"


@dataclass(frozen=True)
class Cell:
    """One cell of the run, and the same one on one device."""

    row: dict[str, Any]
    losses: Sequence[float]
    alone: dict[str, Any]
    losses_alone: Sequence[float]

    @property
    def ranks(self) -> list[tuple[int | None, int]]:
        """Predicted and measured peak of each device."""
        if not self.row["ranks_json"]:
            return [(self.row["predicted_train_bytes"], self.row["peak_train_bytes"])]
        found = json.loads(self.row["ranks_json"]).values()
        return [(rank.get("predicted_train_bytes"), rank["peak_train_bytes"]) for rank in found]

    @property
    def difference(self) -> float:
        """Largest relative difference of a step's loss from that on one device."""
        return max(abs(b / a - 1) for a, b in zip(self.losses_alone, self.losses, strict=True))


@cache
def cells() -> tuple[Cell, ...]:
    """Return the cells of the committed run that trained."""
    found = reading.read(RESULTS)
    rows = [
        {str(name): None if pd.isna(value) else value for name, value in row.items()}
        for row in found.trials.astype(object).to_dict("records")
    ]
    rows = [row for row in rows if row["status"] == "ok"]
    losses = {str(key): steps["loss"].tolist() for key, steps in found.steps.groupby("key")}
    alone = {row["method"]: row for row in rows if row["devices"] is None}
    return tuple(
        Cell(row, losses[row["key"]], alone[row["method"]], losses[alone[row["method"]]["key"]]) for row in rows
    )


def measured() -> str:
    """Return a row for each cell: how far its losses are from one process's, and predicted beside measured memory."""
    rows = []
    for cell in cells():
        void = is_void(cell.row) or is_void(cell.alone)
        speed = cell.row["tokens_per_second"] / cell.alone["tokens_per_second"]
        rows.append(
            (
                f"`{cell.row['method']}`",
                f"`{cell.row['devices']}`" if cell.row["devices"] else "one",
                f"{cell.difference:.1e}" if cell.row["devices"] else NONE,
                f"{100 * cell.row['score_judge']:.1f}",
                ", ".join(NONE if p is None else f"{p:,}" for p, _ in cell.ranks),
                ", ".join(f"{m:,}" for _, m in cell.ranks),
                NONE if void else f"{speed:.2f}",
            )
        )
    head = (
        "method",
        "devices",
        "largest difference of a loss",
        "score of judge",
        "predicted peak of each device",
        "measured peak of each device",
        "tokens/s relative to one",
    )
    return table(rows, head)
