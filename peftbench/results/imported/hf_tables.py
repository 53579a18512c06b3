"""Tables of huggingface/peft ``method_comparison`` result files.

- A history of the files in git (columns commit_date, file, created, acc, ...): the runs that the commits of a day
  brought are one night; a run that an earlier commit already had is not repeated, and of two of an experiment the last
  counts.
- All result files of one commit as one table (columns file, date, test_accuracy, ...), one night.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peftbench.errors import UserError
from peftbench.records import Result
from peftbench.results.imported import hf_rows
from peftbench.results.imported.night import ImportedNight

_HISTORY = ("commit_date", "file", "created", "acc")
_ONE_COMMIT = ("file", "date", "test_accuracy", "status")
_TRAIN = {
    "lr": "optimizer_kwargs.lr",
    "weight_decay": "optimizer_kwargs.weight_decay",
    "optimizer": "optimizer_type",
    "attn": "attn_implementation",
    **{
        name: name
        for name in (
            "autocast_adapter_dtype",
            "compile",
            "use_gc",
            "seed",
            "batch_size",
            "batch_size_eval",
            "max_steps",
            "max_seq_length",
            "dtype",
        )
    },
}
"""Columns with settings of the training, and their names in result files."""


def nights(path: Path) -> list[ImportedNight]:
    """Return the nights that a table has.

    Raises:
        UserError: if it cannot be read, is neither kind of table, or a row is wrong.
    """
    try:
        with open(path, encoding="utf-8", newline="") as file:
            table = csv.DictReader(file)
            rows, columns = list(table), table.fieldnames or ()
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if columns and not rows:
        raise UserError(f"{path} has a head and no rows")
    if all(name in columns for name in _HISTORY):
        return _history(path, rows)
    if all(name in columns for name in _ONE_COMMIT):
        return _one_commit(path, rows)
    missing = ", ".join(name for name in _HISTORY if name not in columns)
    raise UserError(
        f"{path} is no table of method_comparison: as a history it lacks {missing}; a table of all result files has "
        f"{', '.join(_ONE_COMMIT)}"
    )


def _history(path: Path, rows: list[dict[str, Any]]) -> list[ImportedNight]:
    found: dict[str, dict[str, Result]] = {}
    known = set()
    for number, row in sorted(enumerate(rows, 2), key=lambda each: each[1]["commit_date"] or ""):
        run = tuple(value for name, value in row.items() if name not in ("commit", "commit_date", None))
        if run in known:
            continue
        known.add(run)
        try:
            _check_width(row)
            day, result = _day(row["commit_date"], "commit_date"), _of_history(row)
            found.setdefault(day, {})[result.row.cell] = result
        except (ValueError, TypeError, AttributeError) as error:
            raise UserError(f"{path}: line {number}: {error}") from error
    nights = [(date, tuple(results.values())) for date, results in found.items()]
    return [ImportedNight(date, results, (hf_rows.TASK,), source=str(path)) for date, results in nights]


def _one_commit(path: Path, rows: list[dict[str, Any]]) -> list[ImportedNight]:
    results = []
    for number, row in enumerate(rows, 2):
        try:
            _check_width(row)
            results.append(_of_all(row))
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(f"{path}: line {number}: {error}") from error
    try:
        results = hf_rows.of_different_experiments(results)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error
    date = _day(max(str(result.row.finished_at) for result in results)[:10], "date")
    return [ImportedNight(f"{date}_{path.stem}", tuple(results), (hf_rows.TASK,), source=str(path))]


def _check_width(row: Mapping[Any, Any]) -> None:
    if None in row:
        raise ValueError("it has more values than the table has columns")


def _day(text: str | None, column: str) -> str:
    """Return a date, which names a folder."""
    if not hf_rows.is_date(text or ""):
        raise ValueError(f"{column} is {text!r:.40}, not a date like 2025-06-19")
    return str(text)


def _number(row: Mapping[str, str], name: str) -> float | None:
    try:
        value = float(row[name]) if row.get(name) else None
    except ValueError:
        raise ValueError(f"{name} is {row[name]!r:.40}, not a number") from None
    return value if value is not None and math.isfinite(value) else None


def _whole(row: Mapping[str, str], name: str) -> int | None:
    value = _number(row, name)
    return None if value is None else round(value)


def _of_history(row: Mapping[str, str]) -> Result:
    if not row["file"] or not row["created"]:
        raise ValueError("file or created is missing")
    memory, counted, steps = (_number(row, name) for name in ("mem", "train_time", "steps"))
    versions = {"torch": row.get("torch"), "transformers": row.get("tf")}
    environment = {
        "packages": {name: value for name, value in versions.items() if value},
        "gpus": hf_rows.gpus(row.get("gpu")),
    }
    return hf_rows.result(
        row["file"].removesuffix(".json"),
        row["created"],
        _number(row, "acc"),
        message="no accuracy",
        source={name: value for name, value in row.items() if name not in ("commit", "commit_date")},
        environment_json=json.dumps(environment, sort_keys=True),
        peak_run_reserved_bytes=None if memory is None else round(memory * 2**30),
        train_seconds=steps,
        not_training_seconds=counted - steps if counted and steps else None,
    )


def _of_all(row: Mapping[str, str]) -> Result:
    if not row["file"] or not row["date"]:
        raise ValueError("file or date is missing")
    stem = row["file"].removesuffix(".json")
    method = row.get("method") or stem.partition("--")[0]
    packages = {name: row[name] for name in ("torch", "transformers", "peft") if row.get(name)}
    environment = {
        "packages": packages,
        "gpus": hf_rows.gpus(row.get("gpu")),
        "git": {"peft": row.get("peft_commit") or None},
    }
    tokens, seconds, steps = _whole(row, "train_tokens"), _number(row, "step_time_sum_s"), _whole(row, "max_steps")
    ok = row["status"] == "success"
    if ok and _number(row, "test_accuracy") is None:
        raise ValueError("the status is success, but there is no test_accuracy")
    return hf_rows.result(
        stem,
        row["date"],
        _number(row, "test_accuracy") if ok else None,
        message=f"status {row['status']}",
        source=row,
        base=(row.get("base_model") or "Llama-3.2-3B").rpartition("/")[2],
        precision=hf_rows.precision_of(row.get("dtype") or "unknown", method, row.get("autocast_adapter_dtype")),
        rank=_whole(row, "rank"),
        settings_json=json.dumps(_settings(row), sort_keys=True),
        learning_rate=_number(row, "lr"),
        optimizer=row.get("optimizer") or None,
        batch_size=_whole(row, "batch_size"),
        sequence_length=_whole(row, "max_seq_length"),
        environment_json=json.dumps(environment, sort_keys=True),
        peak_run_reserved_bytes=_whole(row, "mem_max_reserved_B"),
        trainable_parameters=_whole(row, "trainable_params"),
        checkpoint_bytes=hf_rows.checkpoint(_number(row, "checkpoint_B"), method),
        train_seconds=seconds,
        not_training_seconds=_number(row, "train_time_not_training_s"),
        validate_seconds=_number(row, "valid_eval_time_s"),
        examples_seen=_whole(row, "train_samples"),
        nonpadding_tokens=tokens,
        tokens_per_second=tokens / seconds if tokens and seconds else None,
        steps_done=steps if ok else None,
    )


def _settings(row: Mapping[str, str]) -> dict[str, Any]:
    """Return what is in the table of a run's settings, with the names that result files have for them."""
    train: dict[str, Any] = {}
    for column, name in _TRAIN.items():
        if row.get(column):
            outer, _, inner = name.partition(".")
            if inner:
                train.setdefault(outer, {})[inner] = _value(row[column])
            else:
                train[outer] = _value(row[column])
    options: dict[str, Any] = json.loads(row.get("capacity_keys") or "{}")
    options |= {flag: True for flag in (row.get("flags") or "").split("|") if flag}
    if row.get("peft_type"):
        options["peft_type"] = row["peft_type"]
    if row.get("target_modules"):
        options["target_modules"] = sorted(row["target_modules"].split("|"))
    return {"train": train, "options": options, "evaluate": [hf_rows.TASK]}


def _value(text: str) -> Any:
    """Return a setting as result files have it: a number, true, false, or text."""
    if text in ("True", "False"):
        return text == "True"
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        return text
