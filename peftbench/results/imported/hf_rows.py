"""A run of huggingface/peft ``method_comparison/MetaMathQA`` as a result of ours: what all its sources have in common.

- ``accelerator_memory_max`` is memory that the allocator reserved, over the whole process with loading and evaluation.
  It has a column and a ``memory_kind`` of its own, so that it is in no table and on no axis with training peaks.
- ``train_time`` has set-up and the scoring of the test set in it. ``train_seconds`` is the steps alone, and the rest is
  ``not_training_seconds``.
- ``forgetting`` is left out: it is a difference of two losses, and its definition was changed three times.
- The size of a fully tuned checkpoint is left out: it is computed from the number of parameters there, not measured.
- A file is one run. It counts as seed 0, the setting of all files; the setting has no effect there.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict
from typing import Any

from peftbench.records import Result, Score, StepRow, TrialRow

TASK = "gsm8k"
QUESTIONS = 1319
"""Test questions of GSM8K, all of which are asked."""
SUITE = "hf_method_comparison"
MEMORY_KIND = "reserved_whole_run"
FULL = "full-finetuning"
"""The method without an adapter."""
_UNKNOWN_SIZE = 99_999_999
"""What is stored there as the size of a file that could not be saved."""
_STEM = "--llama-3.2-3B-"


def result(
    stem: str,
    created: str,
    accuracy: float | None,
    message: str,
    base: str = "Llama-3.2-3B",
    precision: str = "unknown",
    rank: int | None = None,
    steps: tuple[StepRow, ...] = (),
    **measured: Any,
) -> Result:
    """Return a run as a result.

    Args:
        stem: name of its file without the suffix: method, base model and name of the experiment.
        created: when it was made, ISO 8601.
        accuracy: on the test set; None if the run failed.
        message: why a run without an accuracy failed.
        base: base model.
        precision: name of the precision.
        rank: r of the method; None if it has none, or it is not known.
        steps: its learning curve; their keys are filled in.
        measured: other columns of ``TrialRow``.

    Raises:
        ValueError: if the accuracy is not between 0 and 1.
    """
    method, _, name = stem.partition(_STEM)
    key = hashlib.sha256(f"{SUITE} {stem} {created}".encode()).hexdigest()[:32]
    score = None if accuracy is None else _score(accuracy)
    row = TrialRow(
        key=key,
        suite=SUITE,
        base=base,
        method=method,
        cell=f"{method} {name}" if name else stem,
        named_settings=name,
        precision=precision,
        rank=rank,
        seed=0,
        status="error" if score is None else "ok",
        message=None if score else message,
        reason=None if score else message,
        device="cuda",
        memory_kind=MEMORY_KIND,
        scores_json=json.dumps({TASK: asdict(score)} if score else {}),
        started_at=created,
        finished_at=created,
        **measured,
    )
    keyed = tuple(StepRow(**(vars(step) | {"key": key})) for step in steps)
    return Result(row, keyed, scores=() if score is None else (score,))


def precision_of(dtype: str, method: str) -> str:
    """Return the name of a precision: an adapter is in fp32 on a base in 16 bits, a fully tuned model is all in 16."""
    name = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}.get(dtype, dtype)
    return "bf16-true" if name == "bf16" and method == FULL else name


def checkpoint(size: float | None, method: str) -> int | None:
    """Return the bytes of a saved adapter; None where nothing was saved: its size is then invented or computed."""
    return None if size is None or size == _UNKNOWN_SIZE or method == FULL else int(size)


def gpus(name: str | None) -> list[dict[str, str]] | None:
    """Return the GPU as the environment has it."""
    return [{"name": name}] if name else None


def _score(accuracy: float) -> Score:
    if not 0 <= accuracy <= 1:
        raise ValueError(f"an accuracy of {accuracy} is not between 0 and 1")
    error = math.sqrt(accuracy * (1 - accuracy) / QUESTIONS)
    return Score(TASK, "accuracy", accuracy, error, {"accuracy": accuracy}, QUESTIONS, None, None, None, None)
