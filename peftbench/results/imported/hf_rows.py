"""A run of huggingface/peft ``method_comparison/MetaMathQA`` as a result of ours: what all its sources have in common.

- ``accelerator_memory_max`` is memory that the allocator reserved, over the whole process with loading and evaluation.
  It has a column and a ``memory_kind`` of its own, so that it is in no table and on no axis with training peaks.
- ``train_time`` has set-up and the scoring of the test set in it. ``train_seconds`` is the steps alone, and the rest is
  ``not_training_seconds``.
- ``forgetting`` is left out: it is a difference of two losses, and its definition was changed three times.
- The size of a fully tuned checkpoint is left out: it is computed from the number of parameters there, not measured.
- A file is one run. It counts as seed 0, the setting of all files; the setting has no effect there.
- A key is made of all that a source says of a run, so a source that is read again gives the same keys.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
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
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")


def is_date(text: str) -> bool:
    """Return whether a text is a day of the calendar, such as 2026-07-15."""
    try:
        return bool(_DATE.fullmatch(text)) and bool(datetime.date.fromisoformat(text))
    except ValueError:
        return False


def result(
    stem: str,
    created: str,
    accuracy: float | None,
    message: str,
    source: Mapping[str, Any],
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
        source: all that its file, or its row of a table, says; of it the key is made.
        base: base model.
        precision: name of the precision.
        rank: r of the method; None if it has none, or it is not known.
        steps: its learning curve; their keys are filled in.
        measured: other columns of ``TrialRow``.

    Raises:
        ValueError: if the date is none, or the accuracy is no share of the test set's questions.
    """
    method, _, name = stem.partition(_STEM)
    if not is_date(created[:10]):
        raise ValueError(f"the run's date is {created!r:.40}, not one like 2026-07-15")
    said = json.dumps(source, sort_keys=True)
    key = hashlib.sha256(f"{SUITE} {stem} {said}".encode()).hexdigest()[:32]
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


def number(value: Any, name: str) -> float | None:
    """Return a number that was measured: null, not-a-number and infinity are none.

    Raises:
        ValueError: if it is no number, or below 0.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
        raise ValueError(f"{name} is {value!r:.40}, not a number from 0 on")
    return float(value) if -math.inf < value < math.inf else None


def total(intervals: Sequence[Mapping[str, Any]], name: str) -> float | None:
    """Return the sum of what each interval measured; None if there is none, or one did not measure it."""
    each = [number(interval.get(name), name) for interval in intervals]
    return None if None in each or not each else math.fsum(value for value in each if value is not None)


def whole(value: Any, name: str) -> int | None:
    """Return a number that was counted."""
    found = number(value, name)
    return None if found is None else round(found)


def precision_of(dtype: str, method: str, autocast_adapter: Any = True) -> str:
    """Return the name of a precision: an adapter is in fp32 on a base in 16 bits, a fully tuned model is all in 16.

    Args:
        dtype: of the base model.
        method: its name.
        autocast_adapter: false if the adapter was left in the base model's type.
    """
    name = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}.get(dtype, dtype)
    return "bf16-true" if name == "bf16" and (method == FULL or autocast_adapter in (False, "False")) else name


def checkpoint(size: float | None, method: str) -> int | None:
    """Return the bytes of a saved adapter; None where nothing was saved: its size is then invented or computed."""
    return None if size is None or size == _UNKNOWN_SIZE or method == FULL else int(size)


def of_different_experiments(results: Sequence[Result]) -> list[Result]:
    """Return the runs of a night, a copy of a run left out.

    Raises:
        ValueError: if two are of the same experiment, because a report would show one of them alone.
    """
    found = {result.row.key: result for result in results}
    cells = [result.row.cell for result in found.values()]
    for cell in cells:
        if cells.count(cell) > 1:
            raise ValueError(f"{cells.count(cell)} runs of one night are of the experiment {cell!r}")
    return list(found.values())


def gpus(name: str | None) -> list[dict[str, str]] | None:
    """Return the GPU as the environment has it."""
    return [{"name": name}] if name else None


def _score(accuracy: float) -> Score:
    if not 0 <= accuracy <= 1:
        raise ValueError(f"an accuracy of {accuracy} is not between 0 and 1")
    if abs(accuracy * QUESTIONS - round(accuracy * QUESTIONS)) > 0.01:
        raise ValueError(f"an accuracy of {accuracy} is no share of the {QUESTIONS} questions of GSM8K's test set")
    error = math.sqrt(accuracy * (1 - accuracy) / QUESTIONS)
    return Score(TASK, "accuracy", accuracy, error, {"accuracy": accuracy}, QUESTIONS, None, None, None, None)
