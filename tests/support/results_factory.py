"""Synthetic results for tests: one Result, or a whole store shaped like the quickstart's. No torch."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import random
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

from peftbench.records import ExampleRow, Result, Score, StepRow, TrialRow
from peftbench.results.store import open_for_run, write, write_new
from peftbench.version import PROTOCOL

TASKS = ("describe", "compute", "judge")
METRICS = {"describe": "rouge_l", "compute": "exact_match", "judge": "accuracy"}
SHARES = {"describe": 0.6, "compute": 0.8, "judge": 1.0}
CHANCE = {"describe": None, "compute": 0.05, "judge": 0.25}
BITS = {"fp32": 32.0, "bf16": 16.0, "int8": 9.1, "nf4": 5.2}
"""Measured bits per weight; fully tuned bases have fp32 masters."""
FINISHED = "2026-11-22T12:00:00+00:00"
ENVIRONMENT = {
    "python": "3.11.7",
    "packages": {"torch": "2.13.0", "transformers": "5.23.0", "peft": "0.21.1", "peftbench": "0.1.0"},
    "cpu": "Example CPU, 2 cores",
    "gpu": None,
    "git": {"commit": "762de46", "dirty": False},
}
GRID: tuple[tuple[str, int | None, str, int, float, float], ...] = (
    ("base", None, "fp32", 0, 0.10, 1.9e6),
    ("full", None, "fp32", 262_144, 0.92, 6.1e6),
    ("full", None, "bf16", 262_144, 0.91, 5.9e6),
    ("prompt_tuning", 20, "fp32", 1_280, 0.45, 4.2e6),
    ("prefix_tuning", 16, "fp32", 10_240, 0.60, 3.9e6),
    ("adapter", 8, "fp32", 5_440, 0.78, 3.5e6),
    ("adapter", 32, "fp32", 20_800, 0.82, 3.7e6),
    ("llama_adapter", 10, "fp32", 3_205, 0.58, 3.4e6),
    ("lora", 2, "fp32", 7_680, 0.80, 3.6e6),
    ("lora", 8, "fp32", 30_720, 0.87, 3.8e6),
    ("lora", 32, "fp32", 122_880, 0.88, 4.6e6),
    ("lora", 8, "bf16", 30_720, 0.87, 3.1e6),
    ("lora", 8, "int8", 30_720, 0.85, 2.9e6),
    ("qlora", 8, "nf4", 30_720, 0.84, 2.6e6),
)
"""Method, rank, precision, trainable parameters, headline score, peak bytes of the quickstart's 14 cells."""


def make_result(
    cell: str = "lora r=8 fp32",
    method: str = "lora",
    precision: str = "fp32",
    rank: int | None = 8,
    seed: int | None = 0,
    status: str = "ok",
    scores: Mapping[str, float] | None = None,
    steps: int = 3,
    examples: int = 2,
    **row_fields: Any,
) -> Result:
    """Return a plausible Result; a failed one has no scores, costs, steps or examples."""
    given = {"judge": 0.9} if scores is None else scores
    ok = status == "ok"
    key = row_fields.pop("key", None) or hashlib.sha256(f"{cell} {seed}".encode()).hexdigest()[:32]
    records = tuple(_score(task, value, examples) for task, value in given.items()) if ok else ()
    fields = {
        "settings_json": json.dumps({"method": method, "rank": rank, "train": {"steps": 30, "learning_rate": 3e-3}}),
        "environment_json": json.dumps(ENVIRONMENT),
        "base": "nano",
        "device": "cpu",
        "threads": 1,
        "workers": 2,
        "protocol": PROTOCOL,
        "started_at": "2026-11-22T11:59:00+00:00",
        "finished_at": FINISHED,
    }
    fields |= _measured(method, steps) if ok else {"phase": "train", "message": f"made up to be {status}"}
    fields |= {"scores_json": json.dumps({score.task: vars(score) for score in records})} | row_fields
    row = TrialRow(
        key=key,
        suite="quickstart",
        method=method,
        cell=cell,
        precision=precision,
        rank=rank,
        seed=seed,
        status=status,
        **fields,
    )
    trained = ok and method != "base"
    return Result(
        row,
        tuple(_step(key, number, steps) for number in range(1, steps + 1)) if trained else (),
        tuple(_example(key, score.task, i, score.value) for score in records for i in range(examples)),
        records,
    )


def drawn(result: Result, shift: float = 0.0, alike: bool = False) -> Result:
    """Return a result with drawn outcomes of its examples, whose means are its scores; a failed one as it is.

    Args:
        result: its scores are the probabilities.
        shift: what is added to them.
        alike: whether all trials draw with the same seeds, so that an example is as hard for each.
    """
    if result.row.status != "ok":
        return result
    share = {score.task: _clip(score.value + shift) for score in result.scores}
    own = "" if alike else f"{result.row.key} "
    examples = tuple(
        replace(one, outcome=float(random.Random(f"{own}{one.task} {one.index}").random() < share[one.task]))
        for one in result.examples
    )
    found = {task: [one.outcome for one in examples if one.task == task] for task in share}
    scores = tuple(replace(score, value=sum(found[score.task]) / len(found[score.task])) for score in result.scores)
    row = replace(result.row, scores_json=json.dumps({score.task: vars(score) for score in scores}))
    return replace(result, row=row, scores=scores, examples=examples)


def make_grid(folder: Path, seeds: int = 3, steps: int = 30, examples: int = 10) -> Path:
    """Write a store like the quickstart's: 14 cells, an oom among the seeds of one, and an unsupported cell."""
    return store(folder, *grid_results(seeds, steps, examples), tasks=TASKS)


def grid_results(seeds: int = 3, steps: int = 30, examples: int = 10) -> list[Result]:
    """Return the grid's results: the base once, one ``oom`` row, one ``unsupported`` row per seed, the rest ok."""
    made = []
    for cell_number, (method, rank, precision, parameters, score, peak) in enumerate(GRID):
        for seed in [None] if method == "base" else range(seeds):
            draw = random.Random(f"{cell_number} {seed}")
            cell = " ".join([method, *([f"r={rank}"] if rank else []), precision])
            oom = cell == "full fp32" and seed == 2
            made.append(
                make_result(
                    cell,
                    method,
                    precision,
                    rank,
                    seed,
                    "oom" if oom else "ok",
                    {task: _clip(score * share + draw.gauss(0, 0.01)) for task, share in SHARES.items()},
                    steps,
                    examples,
                    **({} if oom else _sizes(method, parameters, peak, draw)),
                    base_bits_per_weight=32.0 if method == "full" else BITS[precision],
                    started_at=f"2026-11-22T11:{cell_number:02}:{(seed or 0) * 10:02}+00:00",
                    finished_at=f"2026-11-22T11:{cell_number:02}:{(seed or 0) * 10 + 9:02}+00:00",
                )
            )
    for seed in range(seeds):
        why = "full does not exist in nf4, because quantized weights have no gradient"
        made.append(make_result("full nf4", "full", "nf4", None, seed, "unsupported", phase=None, message=why))
    return made


def store(folder: Path, *results: Result, tasks: tuple[str, ...] = ("judge",)) -> Path:
    """Write some results as a results folder and return it.

    A new folder has one file of each table, as after ``compact``; a file for each result, as a run writes it, takes 40
    ms to write and 30 ms to read.
    """
    open_for_run(folder, tasks)
    if any((folder / "trials").glob("*.parquet")):
        for result in results:
            write(folder, result, tasks)
    elif results:
        last = {result.row.key: result for result in results}
        names = dict.fromkeys([*tasks, *(score.task for result in results for score in result.scores)])
        with mock.patch("os.fsync"):  # no test cuts the power
            write_new(folder, [last[key] for key in sorted(last)], names)
    return folder


WIDE_METHODS = ("full", "prompt_tuning", "prefix_tuning", "adapter", "llama_adapter", "lora", "qlora")
WIDE_RANKS = (4, 8, 16, 64)
WEIGHTS = {"fp32": 4_000_000, "bf16": 2_000_000, "int8": 1_150_000, "nf4": 740_000}
"""Bytes of a made-up base of a million parameters."""


def make_wide(folder: Path, seeds: int = 3, steps: int = 60, examples: int = 4) -> Path:
    """Write a store of 86 cells, seven methods at up to four ranks and precisions, many near 100 % as real ones are."""
    return store(folder, *wide_results(seeds, steps, examples), tasks=TASKS)


def wide_results(seeds: int = 3, steps: int = 60, examples: int = 4) -> list[Result]:
    """Return the results of 86 cells and of the untuned base."""
    made = [make_result("base fp32", "base", "fp32", None, None, "ok", dict.fromkeys(TASKS, 0.2), 0, examples)]
    for method in WIDE_METHODS:
        precisions = {"full": ("fp32", "bf16"), "qlora": ("nf4",)}.get(method, tuple(WEIGHTS))
        ranks = (None,) if method == "full" else WIDE_RANKS
        for rank, precision, seed in itertools.product(ranks, precisions, range(seeds)):
            made.append(wide_result(method, rank, precision, seed, steps, examples))
    return made


def wide_result(method: str, rank: int | None, precision: str, seed: int, steps: int, examples: int) -> Result:
    draw = random.Random(f"{method} {rank} {precision} {seed}")
    skill = 0.5 + 0.07 * WIDE_METHODS.index(method) + 0.04 * math.log2(rank or 256)
    scores = {"describe": 0.97 + 0.05 * skill, "compute": 0.65 * skill, "judge": skill**0.5}
    parameters = 1_000_000 if rank is None else rank * (130 if "tuning" in method else 2_600)
    moving = int(14e6 * (1.5 if precision == "fp32" else 1) * (0.8 + 0.07 * WIDE_METHODS.index(method)))
    settings = {"method": method, "rank": rank, "evaluate": list(TASKS), **settings_of(method)}
    return make_result(
        " ".join([method, *([f"r={rank}"] if rank else []), precision]),
        method,
        precision,
        rank,
        seed,
        "ok",
        {task: _clip(score + draw.gauss(0, 0.002 if task == "describe" else 0.02)) for task, score in scores.items()},
        steps,
        examples,
        settings_json=json.dumps(settings),
        trainable_parameters=parameters,
        checkpoint_bytes=parameters * 4,
        base_weights_bytes=WEIGHTS[precision],
        base_bits_per_weight=32.0 if method == "full" else BITS[precision],
        peak_base_weights_bytes=WEIGHTS[precision],
        peak_adapter_bytes=parameters * 4,
        peak_optimizer_bytes=parameters * 8,
        peak_activations_bytes=moving,
        peak_temporaries_bytes=moving // 4,
        peak_train_bytes=WEIGHTS[precision] + parameters * 12 + moving + moving // 4,
        tokens_per_second=8_000 * (1 + draw.gauss(0, 0.05)),
        train_seconds=6 * (1 + draw.gauss(0, 0.05)),
    )


def settings_of(method: str, targets: str = "all-linear", checkpointing: bool = False, **train: Any) -> dict[str, Any]:
    """Return the settings that decide whether two cells' memory compares, as a trial stores them."""
    usual = {"steps": 30, "learning_rate": 3e-3, "gradient_checkpointing": checkpointing, "micro_batch_size": 16}
    train = {**usual, **train}
    return {"options": {"target_modules": targets} if "lora" in method else {}, "train": train}


def _clip(value: float) -> float:
    return min(1.0, max(0.0, value))


def _sizes(method: str, parameters: int, peak: float, draw: random.Random) -> dict[str, Any]:
    trains = method != "base"
    share = {"base_weights": 0.3, "adapter": 0.05, "gradients": 0.05, "optimizer": 0.1, "activations": 0.4}
    made: dict[str, Any] = {f"peak_{name}_bytes": int(peak * part) for name, part in share.items()} if trains else {}
    return made | {
        "trainable_parameters": parameters,
        "checkpoint_bytes": parameters * 4 + 600 if trains else None,
        "peak_train_bytes": int(peak) if trains else None,
        "peak_quantization_state_bytes": 0 if trains else None,
        "peak_temporaries_bytes": int(peak) - sum(made.values()) if trains else None,
        "peak_evaluate_bytes": int(peak * 0.6),
        "tokens_per_second": 20_000 * (1 + draw.gauss(0, 0.02)) if trains else None,
        "train_seconds": 6 + draw.gauss(0, 0.1) if trains else None,
    }


def _measured(method: str, steps: int) -> dict[str, Any]:
    trains = method != "base"
    return {
        "learning_rate": 3e-3 if trains else None,
        "optimizer": "adamw" if trains else None,
        "batch_size": 32 if trains else None,
        "micro_batch_size": 32 if trains else None,
        "sequence_length": 128 if trains else None,
        "base_sha256": "b" * 64,
        "data_sha256": "d" * 64,
        "base_parameters": 262_144,
        "trainable_parameters": 30_720,
        "base_weights_bytes": 1_048_576,
        "base_bits_per_weight": 32.0,
        "checkpoint_bytes": 123_480,
        "steps_done": steps if trains else None,
        "tokens_per_second": 20_000.0 if trains else None,
        "median_step_seconds": 0.02 if trains else None,
        "first_loss": 3.5 if trains else None,
        "last_loss": 0.6 if trains else None,
        "train_seconds": 0.6 if trains else None,
        "evaluate_seconds": 1.5,
        "load_seconds": 0.3,
        "wall_seconds": 4.0,
        "memory_kind": "tensor_accounting",
        "peak_train_bytes": 3_800_000 if trains else None,
        "peak_evaluate_bytes": 2_200_000,
        "trainable_tensors": 28 if trains else None,
        "moved_tensors": 28 if trains else None,
    }


def _score(task: str, value: float, examples: int) -> Score:
    error = math.sqrt(value * (1 - value) / max(examples, 1))
    metric = METRICS.get(task, "accuracy")
    return Score(task, metric, value, error, {metric: value}, examples, CHANCE.get(task), 0.28, None, 0)


def _step(key: str, number: int, steps: int) -> StepRow:
    loss = 0.5 + 3 * math.exp(-6 * number / steps)
    return StepRow(key, number, loss, 0.02, number <= 2, 3e-3, 1.0 / number, 4096, 3000, 400, None)


def _example(key: str, task: str, index: int, value: float) -> ExampleRow:
    prompt = f"{task} {index}: <script>alert('prompt')</script> & \"quotes\""
    right, choice = (index % 10) < round(value * 10), task == "judge"
    return ExampleRow(
        key,
        task,
        index,
        prompt,
        target="yes",
        prediction="yes" if right else "<script>alert('no')</script>",
        outcome=float(right),
        format_ok=None if choice else True,
        choice_logprobs=json.dumps([-0.1, -2.3]) if choice else None,
    )
