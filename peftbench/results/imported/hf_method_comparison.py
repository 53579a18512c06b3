"""The results of huggingface/peft ``method_comparison/MetaMathQA`` as results folders, one for each night.

Two kinds of files: the result files themselves (one JSON file for each experiment; the files of one folder are one
night), and a table of the history of such files in git (CSV: commit, commit_date, file, created, acc, loss, ..., mem;
the runs that a commit brought are one night, and a run that an earlier commit already had is not repeated).

- ``accelerator_memory_max`` is memory that the allocator reserved, over the whole process with loading and evaluation.
  It is in ``peak_train_reserved_bytes``, with a ``memory_kind`` of its own, so that it compares with nothing else.
- ``forgetting`` is left out: it is a difference of two losses, and its definition was changed three times.
- A file is one run. It counts as seed 0, the setting of all files; the setting has no effect there.
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peftbench.errors import UserError
from peftbench.records import Result, Score, TrialRow

TASK = "gsm8k"
QUESTIONS = 1319
"""Test questions of GSM8K, all of which are asked."""
SUITE = "hf_method_comparison"
MEMORY_KIND = "accelerator_memory_max"
_UNKNOWN_SIZE = 99_999_999
"""What is stored there as the size of a file that could not be saved."""
_PRECISIONS = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}
_NOT_SETTINGS = ("peft_version", "base_model_name_or_path", "auto_mapping", "revision", "inference_mode")
_ABSENT = {"use_gc": False}
"""Settings that older files do not have, with what they were."""
_COLUMNS = ("commit_date", "file", "created", "acc")
_STEM = "--llama-3.2-3B-"


@dataclass(frozen=True)
class ImportedNight:
    """The runs of one night."""

    name: str
    """Begins with the date."""
    results: tuple[Result, ...]


def read(given: Sequence[Path]) -> list[ImportedNight]:
    """Return the nights that are in files, the oldest first.

    Args:
        given: result files, folders of them, or tables of their history.

    Raises:
        UserError: if there is no such file, or it is not one of that benchmark.
    """
    nights: list[ImportedNight] = []
    loose = [path for path in given if path.suffix == ".json" and not path.is_dir()]
    for path in given:
        if path.is_dir():
            files = sorted(path.glob("*.json"))
            if not files:
                raise UserError(f"{path} has no result files (*.json)")
            nights.append(_night_of_files(files, path.name))
        elif path.suffix == ".csv":
            nights += _nights_of_table(path)
        elif path.suffix != ".json":
            raise UserError(f"{path}: expected a result file (*.json), a folder of them, or a history (*.csv)")
    if loose:
        nights.append(_night_of_files(loose, ""))
    names = [night.name for night in nights]
    if len(set(names)) < len(names):
        raise UserError("a history and the result files of the same night cannot be imported together: import one")
    return sorted(nights, key=lambda night: night.name)


def _night_of_files(paths: Iterable[Path], name: str) -> ImportedNight:
    results = tuple(_of_file(path) for path in paths)
    date = max(str(result.row.finished_at) for result in results)[:10]
    return ImportedNight(f"{date}_{name}" if name else date, results)


def _of_file(path: Path) -> Result:
    try:
        found = json.loads(path.read_bytes())
        return _result_of(path.stem, found["run_info"], found["train_info"], found["meta_info"])
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is not a result file of method_comparison: {error!r:.160}") from error


def _result_of(stem: str, run: dict[str, Any], train: dict[str, Any], meta: dict[str, Any]) -> Result:
    config, peft = run["train_config"], run.get("peft_config") or {}
    metrics = train.get("metrics") or []
    last = metrics[-1] if metrics else {}
    seconds = math.fsum(each["train time"] for each in metrics if "train time" in each) or None
    tokens, size = last.get("train total tokens"), train.get("file_size")
    optimizer = config.get("optimizer_kwargs") or {}
    return _result(
        stem,
        run["created_at"],
        last.get("test accuracy") if train["status"] == "success" else None,
        message=run.get("error_msg") or f"status {train['status']}",
        base=str(config["model_id"]).rpartition("/")[2],
        precision=_PRECISIONS.get(config["dtype"], config["dtype"]),
        rank=peft.get("r"),
        settings_json=json.dumps({"train": _ABSENT | _given(config), "options": _options(peft)}, sort_keys=True),
        learning_rate=optimizer.get("lr"),
        optimizer=config.get("optimizer_type"),
        batch_size=config.get("batch_size"),
        environment_json=json.dumps(_environment(meta), sort_keys=True),
        peak_train_reserved_bytes=train.get("accelerator_memory_max"),
        trainable_parameters=train.get("num_trainable_params"),
        checkpoint_bytes=None if size == _UNKNOWN_SIZE else size,
        train_seconds=seconds,
        nonpadding_tokens=tokens,
        tokens_per_second=tokens / seconds if tokens and seconds else None,
        steps_done=last.get("step"),
        last_loss=last.get("train loss"),
    )


def _given(config: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in config.items() if value is not None}


def _options(peft: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of the method that are given; names of modules have no order there."""
    return {
        name: sorted(value) if isinstance(value, list) and all(isinstance(each, str) for each in value) else value
        for name, value in peft.items()
        if value is not None and name not in _NOT_SETTINGS
    }


def _environment(meta: Mapping[str, Any]) -> dict[str, Any]:
    packages = {
        name.removesuffix("-version"): value
        for name, value in meta["package_info"].items()
        if name.endswith("-version") and value is not None
    }
    system = meta["system_info"]
    return {
        "packages": packages,
        "gpus": _gpus(system.get("accelerator")),
        "system": f"{system.get('system')} {system.get('release')}",
        "git": {"peft": meta["package_info"].get("peft-commit-hash")},
        "datasets": {name: each.get("sha") for name, each in meta["dataset_info"].items()},
    }


def _gpus(name: str | None) -> list[dict[str, str]] | None:
    return [{"name": name}] if name else None


def _nights_of_table(path: Path) -> Iterator[ImportedNight]:
    try:
        with open(path, encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    missing = [name for name in _COLUMNS if not rows or name not in rows[0]]
    if missing:
        raise UserError(f"{path} is no history of method_comparison: it has no column {', '.join(missing)}")
    nights: dict[str, list[Result]] = {}
    known = set()
    for number, row in enumerate(sorted(rows, key=lambda row: row["commit_date"] or ""), 2):
        run = row["file"], row["created"]
        if run in known:
            continue
        known.add(run)
        try:
            nights.setdefault(_day(row["commit_date"]), []).append(_of_row(row))
        except (ValueError, TypeError, AttributeError) as error:
            raise UserError(f"{path}: row {number} in the order of its dates: {error}") from error
    yield from (ImportedNight(date, tuple(results)) for date, results in nights.items())


def _day(text: str | None) -> str:
    """Return a commit's date, which names a folder."""
    if not re.fullmatch(r"\d{4}-\d{2}-\d{2}", text or ""):
        raise ValueError(f"commit_date is {text!r:.40}, not a date like 2025-06-19")
    return str(text)


def _of_row(row: Mapping[str, str]) -> Result:
    def number(name: str) -> float | None:
        value = float(row[name]) if row.get(name) else None
        return value if value is not None and math.isfinite(value) else None

    if not row["file"] or not row["created"]:
        raise ValueError("file or created is missing")

    memory, versions = number("mem"), {"torch": row.get("torch"), "transformers": row.get("tf")}
    environment = {
        "packages": {name: value for name, value in versions.items() if value},
        "gpus": _gpus(row.get("gpu")),
    }
    return _result(
        row["file"].removesuffix(".json"),
        row["created"],
        number("acc"),
        message="no accuracy",
        environment_json=json.dumps(environment, sort_keys=True),
        peak_train_reserved_bytes=None if memory is None else round(memory * 2**30),
        train_seconds=number("steps"),
        last_loss=number("loss"),
    )


def _result(
    stem: str,
    created: str,
    accuracy: float | None,
    message: str,
    base: str = "Llama-3.2-3B",
    precision: str = "unknown",
    rank: int | None = None,
    **measured: Any,
) -> Result:
    method, _, name = stem.partition(_STEM)
    cell = f"{method} {name}" if name else stem
    ok = accuracy is not None
    score = None if accuracy is None else _score(accuracy)
    row = TrialRow(
        key=hashlib.sha256(f"{SUITE} {stem} {created}".encode()).hexdigest()[:32],
        suite=SUITE,
        base=base,
        method=method,
        cell=cell,
        precision=precision,
        rank=rank,
        seed=0,
        status="ok" if ok else "error",
        message=None if ok else message,
        device="cuda",
        memory_kind=MEMORY_KIND,
        scores_json=json.dumps({} if score is None else {TASK: {"metric": score.metric, "value": score.value}}),
        started_at=created,
        finished_at=created,
        **measured,
    )
    return Result(row, scores=() if score is None else (score,))


def _score(accuracy: float) -> Score:
    if not 0 <= accuracy <= 1:
        raise ValueError(f"an accuracy of {accuracy} is not between 0 and 1")
    error = math.sqrt(accuracy * (1 - accuracy) / QUESTIONS)
    return Score(TASK, "accuracy", accuracy, error, {"accuracy": accuracy}, QUESTIONS, None, None, None, 0)
