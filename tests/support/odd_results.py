"""Results folders that are small, degenerate, incomplete or hold numbers that are none, drawn from a seed. No torch."""

from __future__ import annotations

import json
import math
import random
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints
from unittest import mock

from peftbench.records import ExampleRow, StepRow, TrialRow
from peftbench.results.store import files
from peftbench.results.store.schema import scores_of, table
from tests.support.results_factory import GRID, METRICS, make_result

TASKS = ("judge", "compute", "describe")
FAILED = ("oom", "error", "killed", "timeout", "diverged", "inert", "unsupported", "skipped", "corrupt")
EXTREME = (0.0, -0.0, math.nan, math.inf, -math.inf, 1e308, -1e308, 5e-324, -1.0)
MESSAGES = (None, "", "made up", "two\nlines | and $a_b^2$ <b>", "x" * 5000, "\x1b[31mred\x00")
_NUMERIC = tuple(
    name
    for name, hint in get_type_hints(TrialRow).items()
    if hint in (float | None, int | None) and name not in ("rank", "seed", "protocol", "schema_version")
)
_FLOATS = tuple(name for name, hint in get_type_hints(TrialRow).items() if hint == float | None)
_JSON = (
    *("settings_json", "environment_json", "scores_json", "inference_json", "retention_json", "deployed_json"),
    *("data_seen_json", "overlap_json", "ledger_json", "device_state_json", "peak_generate_categories_json"),
)
_BAD_JSON = (None, "", "null", "[]", "{}", "{", '{"a": null}', "NaN")


@dataclass(frozen=True)
class Made:
    """What was drawn."""

    folder: Path
    cells: int
    """Cells with a row; the table has a line for each unless a recorded grid leaves them out."""
    odd: bool
    """Whether columns hold numbers or JSON that peftbench itself never writes."""


def make(folder: Path, seed: int) -> Made:
    """Write the results folder of a seed: a few cells and seeds, with some of everything that can be wrong."""
    draw = random.Random(seed)
    odd = draw.random() < 0.4
    tasks = TASKS[: draw.choice((0, 1, 1, 1, 2, 3))]
    grid = draw.sample(GRID, min(len(GRID), draw.choice((1, 1, 2, 3, 4, 6, 14))))
    seeds = draw.choice((1, 1, 1, 2, 3, 5))
    examples = draw.choice((0, 1, 2, 2, 3, 4, 4, 10, 100))
    outcome = _outcomes(draw, odd)
    rows: dict[str, list[Any]] = {"trials": [], "steps": [], "examples": []}
    bases = ("nano", "other/base") if draw.random() < 0.1 else ("nano",)
    for base in bases:
        for cell in grid:
            for number in [None] if cell[0] == "base" else range(seeds):
                if draw.random() < 0.9:
                    _add(rows, draw, (base, *cell), number, tasks, examples, outcome, odd)
    if not rows["trials"]:
        _add(rows, draw, ("nano", *GRID[9]), 0, tasks, examples, outcome, odd)
    _write(folder, rows, tasks, draw)
    if draw.random() < 0.2:
        _write(folder / files.SEARCH, _candidates(rows["trials"], draw, odd), tasks, draw)
    return Made(folder, len({(row["base"], row["cell"]) for row in rows["trials"]}), odd)


def _outcomes(draw: random.Random, odd: bool) -> Callable[[str, int], float]:
    """Return a function that gives the outcome of an example of a cell: by one of many degenerate rules."""
    kind = draw.choice(("right", "wrong", "same", "same", "random", "random", "random", "fraction", "swap", "odd"))
    salt = draw.random()
    value = draw.choice((*EXTREME, 1e30, 1e70, 17.3)) if odd else 0.5
    count = iter(range(10**9))
    return {
        "right": lambda cell, index: 1.0,
        "wrong": lambda cell, index: 0.0,
        "same": lambda cell, index: float(random.Random(f"{salt} {index}").random() < 0.5),
        "random": lambda cell, index: float(draw.random() < 0.5),
        "fraction": lambda cell, index: draw.random(),
        "swap": lambda cell, index: float((index + next(count)) % 2),
        "odd": lambda cell, index: value if draw.random() < 0.2 else 1.0,
    }[kind]


def _add(
    rows: dict[str, list[Any]],
    draw: random.Random,
    cell: tuple[Any, ...],
    seed: int | None,
    tasks: tuple[str, ...],
    examples: int,
    outcome: Callable[[str, int], float],
    odd: bool,
) -> None:
    """Add a trial's rows, some of them damaged."""
    base, method, rank, precision, parameters, _, peak = cell
    status = "ok" if draw.random() < 0.85 else draw.choice(FAILED)
    name = " ".join([method, *([f"r={rank}"] if rank else []), precision])
    scored = tasks if draw.random() < 0.95 else tasks[1:]
    stored = {task: [outcome(name, index) for index in range(examples)] for task in scored}
    means = {task: math.fsum(o) / len(o) if o and _plain(o) else math.nan for task, o in stored.items()}
    result = make_result(
        name,
        method,
        precision,
        rank,
        seed,
        status,
        dict.fromkeys(scored, 0.5),
        draw.choice((0, 1, 2, 3, 20)),
        0,
        key=f"{base[:1]}{zlib.crc32(repr((base, name, seed)).encode()):08x}",
    )
    row = vars(result.row) | {"base": base, "trainable_parameters": parameters, "peak_train_bytes": int(peak)}
    for score in result.scores:
        row |= scores_of([score]) | {f"score_{score.task}": means[score.task]}
    row["scores_json"] = json.dumps({t: _score(t, means[t], examples) for t in scored if status == "ok"})
    row["settings_json"] = json.dumps({"method": method, "rank": rank, "evaluate": list(tasks), "options": {}})
    row |= {"device_flops_per_second": draw.choice((None, 1e9, 0.0)), "train_energy_joules": draw.choice((None, 3.0))}
    row |= {"inference_json": json.dumps(_inference(draw)), "retention_json": json.dumps(_retention(draw, method))}
    if status != "ok":
        row["message"] = draw.choice(MESSAGES)
    if odd and draw.random() < 0.1:
        row |= draw.choice(
            ({"method": "mystery"}, {"precision": "int3"}, {"status": "weird"}, {"rank": 0}, {"cell": ""})
        )
    if odd and draw.random() < 0.1:
        row |= draw.choice(({"device": None}, {"device": "tpu"}, {"named_settings": "x"}, {"finished_at": None}))
    _damage(row, draw, odd)
    rows["trials"].append(row)
    if status != "ok":
        return
    if draw.random() < 0.9:
        for task, outcomes in stored.items():
            lost = draw.random() < 0.05
            rows["examples"] += [
                vars(ExampleRow(row["key"], task, i, f"{task} {i}", "yes", draw.choice(("yes", "")), o, None, None))
                for i, o in enumerate(outcomes)
                if not (lost and i == 0)
            ]
    rows["steps"] += [vars(_step(step, draw, odd)) for step in result.steps if draw.random() < 0.98]


def _plain(outcomes: list[float]) -> bool:
    return all(abs(o) < 1e300 for o in outcomes)


def _score(task: str, value: float, examples: int) -> dict[str, Any]:
    metric = METRICS[task]
    return {
        **{"task": task, "metric": metric, "value": value, "standard_error": None, "metrics": {metric: value}},
        **{"examples": examples, "chance": 0.25, "majority": None, "format_failures": 0, "truncated_prompts": 0},
        "settings": {},
    }


def _step(step: StepRow, draw: random.Random, odd: bool) -> StepRow:
    if draw.random() > 0.1:
        return step
    return StepRow(
        step.key,
        step.step,
        draw.choice((0.0, math.nan, math.inf) if odd else (0.0,)),
        0.0,
        draw.random() < 0.5,
        0.0,
        0.0,
        0,
        0,
        0,
        None,
    )


def _inference(draw: random.Random) -> dict[str, Any]:
    seconds = [
        [draw.choice((0.0, 0.1, 0.2)) for _ in range(draw.choice((1, 2, 4)))] for _ in range(draw.choice((1, 2, 5)))
    ]
    sides = {side: dict.fromkeys(("1", "4"), seconds) for side in draw.sample(("tuned", "bare", "merged"), 2)}
    return {"prompts": 4, "prompt_tokens": 16, "new_tokens": 4, "seconds": sides} if draw.random() < 0.5 else {}


def _retention(draw: random.Random, method: str) -> dict[str, Any]:
    texts = draw.choice((0, 1, 2, 5))
    values = [draw.choice((0.0, 1.0, 2.5)) for _ in range(texts)]
    tokens = [draw.choice((0, 1, 10)) for _ in range(texts)]
    after = None if method == "base" else [v * draw.choice((1, 2)) for v in values]
    return {"tokens": tokens, "before": values, "after": after} if draw.random() < 0.5 else {}


def _damage(row: dict[str, Any], draw: random.Random, odd: bool) -> None:
    """Make some columns null or zero, and with ``odd`` some of them NaN, infinite, huge or no JSON."""
    for name in draw.sample(_NUMERIC, draw.choice((0, 0, 3, 10))):
        row[name] = None if draw.random() < 0.5 else 0
    if not odd:
        return
    for name in draw.sample(_FLOATS, draw.choice((0, 3, 20))):
        row[name] = draw.choice(EXTREME)
    if draw.random() < 0.3:
        name = draw.choice(_JSON)
        row[name] = draw.choice(_BAD_JSON)
        if row[name] is None and name in ("settings_json", "environment_json", "scores_json"):
            row[name] = "{}"


def _candidates(trials: list[dict[str, Any]], draw: random.Random, odd: bool) -> dict[str, list[Any]]:
    """Return the rows of a learning-rate search of these trials' cells."""
    rates = draw.sample((1e-5, 1e-4, 1e-3, 1e-2), draw.choice((1, 2, 3)))
    rates += [draw.choice((*EXTREME, None))] if odd else []
    found = []
    for row in trials:
        if row["method"] != "base" and draw.random() < 0.7:
            for rate in rates:
                cell = f"{row['cell']} lr={rate}"
                key = f"s{zlib.crc32(repr((row['key'], rate)).encode()):08x}"
                more = {"candidate_of": row["cell"], "learning_rate": rate, "key": key, "cell": cell}
                if draw.random() < 0.1:
                    more |= {"status": draw.choice(FAILED)}
                found.append(row | more)
    return {"trials": found or [trials[0] | {"candidate_of": trials[0]["cell"]}], "steps": [], "examples": []}


def _write(folder: Path, rows: Mapping[str, list[Any]], tasks: tuple[str, ...], draw: random.Random) -> None:
    with mock.patch("os.fsync"):
        for kind, listed in rows.items():
            made = table(kind, listed, tasks)
            files.save(files.path_of(folder, kind, "part-made"), [made], made.schema)
    keys = [row["key"] for row in rows["trials"]]
    grid: Any = {"keys": [*keys, "missing"], "command": "peftbench run x.yaml"}
    if draw.random() < 0.3:
        grid["keys"] = keys[: max(1, len(keys) // 2)]
    if draw.random() < 0.7:
        (folder / files.GRID).write_text(json.dumps(grid))
