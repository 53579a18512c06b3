"""Very many synthetic results at once, for what a page of thousands of trials costs. No torch."""

from __future__ import annotations

import itertools
import json
import random
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any
from unittest import mock

from peftbench.records import Result
from peftbench.results.store import files
from peftbench.results.store.schema import scores_of, table
from tests.support.results_factory import TASKS, WIDE_METHODS, wide_result

PRECISIONS = ("fp32", "bf16", "int8", "nf4")
METHODS = tuple(name for name in WIDE_METHODS if name not in ("full", "qlora"))


def make_many(folder: Path, trials: int = 5000, seeds: int = 5, steps: int = 60, examples: int = 20) -> Path:
    """Write a store of about this many trials: five methods in four precisions, at as many ranks as it takes."""
    rows: dict[str, list[Any]] = {"trials": [], "steps": [], "examples": []}
    ranks = max(1, round(trials / (len(METHODS) * len(PRECISIONS) * seeds)))
    for method, rank, precision, seed in itertools.product(METHODS, range(1, ranks + 1), PRECISIONS, range(seeds)):
        result = _with_outcomes(wide_result(method, rank, precision, seed, steps, examples))
        rows["trials"].append(vars(result.row) | scores_of(result.scores))
        rows["steps"] += [vars(step) for step in result.steps]
        rows["examples"] += [vars(example) for example in result.examples]
    random.Random(0).shuffle(rows["trials"])
    with mock.patch("os.fsync"):  # no test cuts the power
        for kind, listed in rows.items():
            made = table(kind, listed, TASKS)
            files.save(files.path_of(folder, kind, "part-made"), [made], made.schema)
    return folder


def _with_outcomes(result: Result) -> Result:
    """Return a result whose outcomes are drawn with its scores, and whose scores are their means."""
    draw, means = random.Random(result.row.key), {score.task: score.value for score in result.scores}
    examples = tuple(replace(each, outcome=float(draw.random() < means[each.task])) for each in result.examples)
    found = {task: fmean(each.outcome for each in examples if each.task == task) for task in means}
    scores = tuple(replace(score, value=found[score.task]) for score in result.scores)
    stored = json.dumps({score.task: vars(score) for score in scores})
    return replace(result, row=replace(result.row, scores_json=stored), examples=examples, scores=scores)
