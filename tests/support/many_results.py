"""Results folders of any size, written as the runner leaves them after compaction, for questions of speed. No torch.

Outcomes are binary and follow the crossed model: each task's examples differ in difficulty, seeds and cells in skill.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from peftbench.records import Result
from peftbench.results.store import files, open_for_run, schema, writing
from tests.support.results_factory import BITS, TASKS, WEIGHTS, make_result, settings_of

METHODS = ("lora", "adapter", "llama_adapter", "prefix_tuning", "prompt_tuning")
RANKS = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64)
RATES = tuple(1e-4 * 2**power for power in range(9))
TEXTS = 20
"""Held-out texts whose loss is measured before and after training."""


class _Made(NamedTuple):
    """A trial and its outcomes."""

    result: Result
    outcomes: np.ndarray
    """(tasks, examples), each 0 or 1."""


def make_many(folder: Path, cells: int, seeds: int, steps: int = 50, examples: int = 200) -> Path:
    """Write a folder of ``cells`` tuned cells with ``seeds`` trials each, and of the untuned base model; return it.

    Args:
        folder: where to.
        cells: at most 1,800: method, rank, precision and learning rate.
        seeds: trials of each cell.
        steps: stored steps of each trial.
        examples: scored examples of each of the three tasks.
    """
    open_for_run(folder, TASKS)
    made = _trials(cells, seeds, steps, examples)
    for number in itertools.count():
        part = list(itertools.islice(made, writing.PART_TRIALS))
        if not part:
            return folder
        rows = [vars(one.result.row) | schema.scores_of(one.result.scores) for one in part]
        tables = {
            "examples": _examples(part, examples),
            "steps": _steps([one for one in part if one.result.row.method != "base"], steps, number),
            "trials": schema.table("trials", rows, TASKS),
        }
        for kind, table in tables.items():
            files.save(files.path_of(folder, kind, f"{files.PART}{number:016}"), [table], table.schema)


def _trials(cells: int, seeds: int, steps: int, examples: int) -> Iterator[_Made]:
    axes = list(itertools.islice(itertools.product(RATES, METHODS, RANKS, WEIGHTS), cells))
    if len(axes) < cells:
        raise ValueError(f"at most {len(axes)} cells, got {cells}")
    draw = np.random.default_rng(0)
    difficulty = draw.normal(0, 1.2, (len(TASKS), examples))
    outcomes = _outcomes(draw, difficulty, -1.5)
    given = {"settings_json": json.dumps({"method": "base", "evaluate": list(TASKS)}), "named_settings": ""}
    given |= {"retention_json": json.dumps(_retention(draw, tuned=False))}
    yield _Made(make_result("base fp32", "base", "fp32", None, None, "ok", _means(outcomes), 0, 0, **given), outcomes)
    for rate, method, rank, precision in axes:
        skill = 1 + 0.1 * METHODS.index(method) + 0.15 * np.log2(rank) - abs(np.log2(rate / 8e-4)) / 3
        cell = f"{method} r={rank} lr={rate:g} {precision}"
        for seed in range(seeds):
            outcomes = _outcomes(draw, difficulty, skill)
            given = {"learning_rate": rate, "named_settings": f"lr={rate:g}", **_measured(draw, rank, precision, steps)}
            settings = {"method": method, "rank": rank, "evaluate": list(TASKS), **settings_of(method)}
            settings["train"] |= {"steps": steps, "learning_rate": rate}
            given["settings_json"] = json.dumps(settings)
            made = make_result(cell, method, precision, rank, seed, "ok", _means(outcomes), 0, 0, **given)
            yield _Made(made, outcomes)


def _outcomes(draw: np.random.Generator, difficulty: np.ndarray, skill: float) -> np.ndarray:
    """Return the outcomes (tasks, examples) of a trial with a new seed."""
    logits = skill + draw.normal(0, 0.1) - difficulty
    return (draw.random(difficulty.shape) < 1 / (1 + np.exp(-logits))).astype(np.float64)


def _means(outcomes: np.ndarray) -> dict[str, float]:
    return dict(zip(TASKS, outcomes.mean(axis=1).tolist(), strict=True))


def _measured(draw: np.random.Generator, rank: int, precision: str, steps: int) -> dict[str, Any]:
    """Return the columns of a trial that depend on its size, and those of retention and of inference cost."""
    parameters, activations = 2_600 * rank, int(14e6 * (1 + 0.05 * draw.random()))
    seen = {"examples": 2000, "drawn": 800, "distinct": 800, "truncated": 0}
    return {
        "trainable_parameters": parameters,
        "base_weights_bytes": WEIGHTS[precision],
        "base_bits_per_weight": BITS[precision],
        "peak_base_weights_bytes": WEIGHTS[precision],
        "peak_adapter_bytes": parameters * 4,
        "peak_optimizer_bytes": parameters * 8,
        "peak_activations_bytes": activations,
        "peak_train_bytes": WEIGHTS[precision] + parameters * 12 + activations,
        "tokens_per_second": 8_000 * (1 + draw.normal(0, 0.05)),
        "train_seconds": 6 * (1 + draw.normal(0, 0.05)),
        "train_waiting_seconds": 0.01,
        "steps_done": steps,
        "data_seen_json": json.dumps(dict.fromkeys(TASKS, seen)),
        "distinct_examples_seen": 800,
        "examples_seen": 800,
        "nonpadding_tokens": 3_000 * steps,
        "loss_tokens": 400 * steps,
        "inference_json": json.dumps(_inference(draw)),
        "retention_json": json.dumps(_retention(draw, tuned=True)),
        "retention_bytes": TEXTS * 100,
    }


def _retention(draw: np.random.Generator, tuned: bool) -> dict[str, list[float]]:
    tokens = [20 + place for place in range(TEXTS)]
    before = [3.0 * count for count in tokens]
    after = [loss + float(draw.normal(2, 1)) for loss in before] if tuned else []
    return {"tokens": tokens, "before": before, **({"after": after} if tuned else {})}


def _inference(draw: np.random.Generator) -> dict[str, Any]:
    seconds = {
        variant: {
            prompts: (base * (1 + 0.02 * draw.random((5, 4)))).tolist() for prompts, base in (("1", 3e-3), ("4", 6e-3))
        }
        for variant, base in (("bare", 1.0), ("tuned", 1.2))
    }
    return {"new_tokens": 4, "prompt_tokens": 18, "prompts": 4, "reasons": {}, "seconds": seconds}


def _examples(part: list[_Made], examples: int) -> pa.Table:
    """Return the stored examples of trials."""
    count, each = len(part), len(TASKS) * examples
    right = np.concatenate([one.outcomes.ravel() for one in part])
    task = np.tile(np.repeat(np.arange(len(TASKS)), examples), count)
    place = np.tile(np.arange(examples), count * len(TASKS))
    choice = task == TASKS.index("judge")
    prompts = pa.array(
        [f"{name} {i}: what follows from {i} is {i + 1}, and then?" for name in TASKS for i in range(examples)]
    )
    columns = {
        "key": pa.array([one.result.row.key for one in part]).take(pa.array(np.repeat(np.arange(count), each))),
        "task": pa.array(TASKS).take(pa.array(task)),
        "index": pa.array(place),
        "prompt": prompts.take(pa.array(np.tile(np.arange(each), count))),
        "target": pa.array([f"answer {i}" for i in range(examples)]).take(pa.array(place)),
        "prediction": pa.array(["no", "yes"]).take(pa.array(right.astype(np.int64))),
        "outcome": pa.array(right),
        "format_ok": pa.array(np.ones(len(right), bool), mask=choice),
        "choice_logprobs": pa.array(["[-0.1, -2.3]"]).take(pa.array(np.zeros(len(right), np.int64), mask=~choice)),
    }
    wanted = schema.schema("examples")
    return pa.Table.from_arrays([columns[field.name].cast(field.type) for field in wanted], schema=wanted)


def _steps(part: list[_Made], steps: int, seed: int) -> pa.Table:
    draw, count = np.random.default_rng(seed), len(part)
    number = np.tile(np.arange(1, steps + 1), count)
    size = len(number)
    columns = {
        "key": pa.array([one.result.row.key for one in part], pa.string()).take(
            pa.array(np.repeat(np.arange(count), steps))
        ),
        "step": number,
        "loss": 0.5 + 3 * np.exp(-6 * number / steps) + draw.normal(0, 0.05, size),
        "seconds": 0.02 * (1 + 0.1 * draw.random(size)),
        "untimed": number <= 2,
        "learning_rate": np.full(size, 3e-3),
        "gradient_norm": 1 / number,
        "processed_tokens": np.full(size, 4096),
        "nonpadding_tokens": draw.integers(2_900, 3_100, size),
        "loss_tokens": np.full(size, 400),
        **dict.fromkeys(("validation_loss", "validation_score", "covered_steps"), np.full(size, np.nan)),
    }
    wanted = schema.schema("steps")
    arrays = [
        pa.array(values, field.type, from_pandas=True)
        if isinstance(values := columns[field.name], np.ndarray)
        else values
        for field in wanted
    ]
    return pa.Table.from_arrays(arrays, schema=wanted)
