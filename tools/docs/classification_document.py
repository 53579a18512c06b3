"""The generated parts of ``docs/classification.md``: committed runs of suites/glue_small.yaml on real sentences."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from peftbench.records import units as fmt
from peftbench.records.wording import series, span
from peftbench.report.collect import Cell, Results, collect
from peftbench.results.seeds import Spread
from tools.docs.precision_document import table

RESULTS = Path(__file__).resolve().parents[2] / "results" / "reference"
TASKS = {"cola": "CoLA", "sst2": "SST-2", "trec": "TREC"}
SCORE = "score_glue"
"""Each of these runs has one task, which the suite calls glue."""


@cache
def results(name: str) -> Results:
    """Return the committed results of a run."""
    return collect(RESULTS / f"glue_{name}")


@cache
def cells() -> dict[str, dict[str, Cell]]:
    """Return the cells of the three tasks, by the name of the cell and then by the task."""
    found: dict[str, dict[str, Cell]] = {}
    for task in TASKS:
        for cell in results(task).cells:
            found.setdefault(cell.name, {})[task] = cell
    return found


def majority(task: str) -> float:
    """Return the score of always giving the most common class; its correlation is 0."""
    found = results(task).reference("majority", "glue")
    if found is None and results(task).score_record("glue")["metric"] == "matthews":
        return 0.0
    if found is None:
        raise LookupError(f"the rows of {task} do not have the majority's score")
    return found


def run() -> str:
    """Return what was run, as a list."""
    lines = []
    for task, title in TASKS.items():
        found = results(task)
        first = json.loads(found.trials["settings_json"].iloc[0])
        counts = found.trials["status"].value_counts().items()
        record = found.score_record("glue")
        classes = len(json.loads(found.trials["classes_json"].iloc[0])["glue"])
        both = json.loads(found.trials["overlap_json"].iloc[0])["glue"]["exact"]
        lines.append(
            f"- {title}: {', '.join(f'{n} trials {status}' for status, n in counts)}, seeds "
            f"{series([str(int(seed)) for seed in sorted(found.trials['seed'].unique())])}, {first['train']['steps']} "
            f"steps of {first['train']['batch_size']} sentences; {classes} classes, {record['examples']:,} sentences "
            f"scored, {both} of them also training sentences word for word."
        )
    return "\n".join(lines)


def scores() -> str:
    """Return the table of scores: a row per method, a column per task."""
    head = ["method", *(f"{title}: {metric(task)}" for task, title in TASKS.items())]
    rows = [[cell_title(each), *(_score(each[task]) for task in TASKS)] for each in cells().values()]
    rows.append(["the majority class", *(f"{100 * majority(task):.1f}" for task in TASKS)])
    return table(head, rows)


def longer() -> str:
    """Return what full fine-tuning scores on SST-2 after more steps."""
    (cell,) = results("sst2_longer").cells
    steps = json.loads(cell.trials["settings_json"].iloc[0])["train"]["steps"]
    seeds = series([str(int(seed)) for seed in sorted(cell.trials["seed"].unique())])
    return f"{cell.title[0].upper()}{cell.title[1:]} for {steps} steps, seeds {seeds}: {_score(cell)} on SST-2."


def costs() -> str:
    """Return the table of parameters, memory and what the method's own tensors do: a row per method."""
    names = series(list(TASKS.values()))
    head = ["method", "trainable parameters", f"of the head: {names}", "peak, MiB", "logit change"]
    rows = []
    for each in cells().values():
        trainable = series(list(dict.fromkeys(_count(cell, "trainable_parameters") for cell in each.values())))
        heads = series([_count(cell, "head_parameters") for cell in each.values()])
        measured = [peak for cell in each.values() if (peak := cell.mean("peak_train_bytes")) is not None]
        peaks = span(measured, lambda n: f"{n / 2**20:.1f}")
        changes = [cell.trials["largest_logit_change"].max() for cell in each.values()]
        rows.append([cell_title(each), trainable, heads, peaks, span(changes, "{:.2g}".format)])
    return table(head, rows)


def findings() -> str:
    """Return, for each task, which intervals lie above the majority's score, and what separates methods."""
    lines = []
    for task, title in TASKS.items():
        found, floor = [each[task] for each in cells().values()], majority(task)
        above = [cell.title for cell in found if (low := _low(cell)) is not None and low > floor]
        named = "all" if len(above) == len(found) else f"{len(above)} ({series(above)})" if above else "none"
        full = next(cell for cell in found if cell.method == "full")
        apart = [cell.title for cell in found if cell is not full and not _overlap(cell, full)]
        rest = f"; apart from full fine-tuning's lie those of {series(apart)}" if apart else ""
        lines.append(f"- {title}: of {len(found)} intervals, {named} lie above the majority's {100 * floor:.1f}{rest}.")
    return "\n".join(lines)


def roberta() -> str:
    """Return the figures of the trial of RoBERTa's shape."""
    (row,) = results("roberta").trials.to_dict("records")
    rows = [
        ["parameters of the base model, without a head", f"{row['base_parameters']:,}"],
        ["trainable parameters of LoRA", f"{row['trainable_parameters']:,}"],
        ["parameters of the head, apart", f"{row['head_parameters']:,.0f}"],
        ["peak of a training step, predicted", _mebibytes(row, "predicted_train_bytes")],
        ["peak of a training step, measured", _mebibytes(row, "peak_train_bytes")],
        ["saved", _mebibytes(row, "checkpoint_bytes")],
        ["status", str(row["status"])],
    ]
    return table(["quantity", "value"], rows)


def metric(task: str) -> str:
    """Return the headline metric of a task, with its unit."""
    return {"matthews": "Matthews' correlation x 100", "accuracy": "accuracy, %"}[
        results(task).score_record("glue")["metric"]
    ]


def cell_title(each: Mapping[str, Cell]) -> str:
    """Return how a method is written in these tables."""
    cell = next(iter(each.values()))
    return cell.title + (f" r={cell.rank}" if cell.rank else "") + f", {cell.precision}"


def _spread(cell: Cell) -> Spread | None:
    return cell.summary.spreads.get(SCORE)


def _score(cell: Cell) -> str:
    found = _spread(cell)
    if found is None:
        return cell.trouble or fmt.MISSING
    half = "" if found.half_width is None else f" ± {100 * found.half_width:.1f}"
    return f"{100 * found.mean:.1f}{half}"


def _low(cell: Cell) -> float | None:
    found = _spread(cell)
    return None if found is None or found.half_width is None else found.mean - found.half_width


def _overlap(one: Cell, other: Cell) -> bool:
    first, second = _spread(one), _spread(other)
    if first is None or second is None or first.half_width is None or second.half_width is None:
        return True
    return abs(first.mean - second.mean) <= first.half_width + second.half_width


def _count(cell: Cell, column: str) -> str:
    return f"{cell.mean(column):,.0f}"


def _mebibytes(row: Mapping[str, Any], column: str) -> str:
    return f"{row[column]:,} bytes ({row[column] / 2**20:,.1f} MiB)"
