"""The results of huggingface/peft ``method_comparison/MetaMathQA`` as results folders, one for each night.

Read are the result files themselves (one JSON file for each experiment; the files of one folder are one night), and
two kinds of tables (``hf_tables``). What their numbers mean here: ``hf_rows``.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from peftbench.errors import UserError
from peftbench.records import Result, StepRow
from peftbench.records.wording import abridged, plural
from peftbench.results.imported import hf_rows, hf_tables
from peftbench.results.imported.night import ImportedNight

_NOT_SETTINGS = ("peft_version", "base_model_name_or_path", "auto_mapping", "revision", "inference_mode", "task_type")
_ABSENT = {"use_gc": False}
"""Settings that older files do not have, with what they were."""
_TAIL = 0.1
"""Share of the steps at the end whose mean loss is ``last_loss``."""


def read(given: Sequence[Path]) -> list[ImportedNight]:
    """Return the nights that are in files, the oldest first.

    Args:
        given: result files, folders of them, or tables of them.

    Raises:
        UserError: if there is no such file, or it is not one of that benchmark.
    """
    nights: list[ImportedNight] = []
    loose = [path for path in given if path.suffix == ".json" and not path.is_dir()]
    for path in given:
        if path.is_dir():
            files = sorted(path.glob("*.json"))
            if not files:
                raise UserError("; ".join((f"{path} has no result files (*.json)", *_left_out(path))))
            night = _night(files, path.resolve().name)
            nights.append(replace(night, source=f"{plural(len(files), 'file')} of {path}", left_out=_left_out(path)))
        elif path.suffix == ".csv":
            nights += hf_tables.nights(path)
        elif path.suffix != ".json":
            raise UserError(f"{path}: expected a result file (*.json), a folder of them, or a table of them (*.csv)")
    if loose:
        nights.append(replace(_night(loose, ""), source=plural(len(loose), "file")))
    names = [night.name for night in nights]
    if len(set(names)) < len(names):
        raise UserError("a table and the result files of the same night cannot be imported together: import one")
    return sorted(nights, key=lambda night: night.name)


def _left_out(folder: Path) -> tuple[str, ...]:
    """Return what in a folder of result files is none, and how to import it."""
    rest = sorted(path for path in folder.iterdir() if path.suffix != ".json" or path.is_dir())
    folders = [path.name for path in rest if path.is_dir()]
    tables = [path.name for path in rest if path.suffix == ".csv" and not path.is_dir()]
    others = [path.name for path in rest if not path.is_dir() and path.suffix != ".csv"]
    kinds = (
        (folders, "folder", "a folder is one night, without the folders in it; give each as an argument of its own"),
        (tables, "table", "a table repeats results; give it alone to import it"),
        (others, "other file", "result files are named *.json"),
    )
    return tuple(f"{plural(len(names), what)} ({abridged(names, 3)}): {why}" for names, what, why in kinds if names)


def _night(paths: Iterable[Path], name: str) -> ImportedNight:
    try:
        results = tuple(hf_rows.of_different_experiments([_of_file(path) for path in paths]))
    except ValueError as error:
        raise UserError(f"{error}: give the files of each month as a folder of its own") from error
    date = max(str(result.row.finished_at) for result in results)[:10]
    return ImportedNight(f"{date}_{name}" if name else date, results, (hf_rows.TASK,))


def _of_file(path: Path) -> Result:
    try:
        found = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not a result file of method_comparison: no JSON file ({error!s:.120})") from error
    try:
        return _result(path.stem, found, found["run_info"], found["train_info"], found["meta_info"])
    except KeyError as error:
        raise UserError(f"{path} is not a result file of method_comparison/MetaMathQA: it lacks {error}") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is not a result file of method_comparison/MetaMathQA: {error!s:.160}") from error


def _result(
    stem: str, whole: Mapping[str, Any], run: dict[str, Any], train: dict[str, Any], meta: dict[str, Any]
) -> Result:
    config, peft = run["train_config"], run.get("peft_config") or {}
    stem = str(run.get("experiment_name") or stem).replace("/", "--")  # a file may have been renamed
    method = stem.partition("--")[0] if peft else hf_rows.FULL
    metrics = train.get("metrics") or []
    last = metrics[-1] if metrics else {}
    intervals = [each for each in metrics if "train time" in each]
    seconds = hf_rows.total(intervals, "train time")
    tokens = hf_rows.whole(last.get("train total tokens"), "train total tokens")
    counted = hf_rows.number(train.get("train_time"), "train_time")
    steps = _steps(intervals)
    done = train["status"] == "success"
    accuracy = hf_rows.number(last.get("test accuracy"), "test accuracy")
    if done and accuracy is None:
        raise ValueError("its status is success, but it has no test accuracy")
    return hf_rows.result(
        stem,
        str(run["created_at"]),
        accuracy if done else None,
        message=str(run.get("error_msg") or f"status {train['status']}"),
        source=whole,
        base=str(config["model_id"]).rpartition("/")[2],
        precision=hf_rows.precision_of(config["dtype"], method, config.get("autocast_adapter_dtype")),
        steps=steps,
        rank=hf_rows.whole(peft.get("r"), "r"),
        settings_json=json.dumps(
            {
                "train": _ABSENT | _given(config),
                "options": _options(peft),
                "evaluate": [hf_rows.TASK],
                "stated": _stated(config, meta, last),
            },
            sort_keys=True,
        ),
        learning_rate=hf_rows.number((config.get("optimizer_kwargs") or {}).get("lr"), "lr"),
        optimizer=config.get("optimizer_type"),
        batch_size=hf_rows.whole(config.get("batch_size"), "batch_size"),
        sequence_length=hf_rows.whole(config.get("max_seq_length"), "max_seq_length"),
        environment_json=json.dumps(_environment(meta), sort_keys=True),
        peak_run_reserved_bytes=hf_rows.whole(train.get("accelerator_memory_max"), "accelerator_memory_max"),
        trainable_parameters=hf_rows.whole(train.get("num_trainable_params"), "num_trainable_params"),
        checkpoint_bytes=hf_rows.checkpoint(hf_rows.number(train.get("file_size"), "file_size"), method),
        train_seconds=seconds,
        not_training_seconds=counted - seconds if counted and seconds else None,
        validate_seconds=hf_rows.total(intervals, "eval time"),
        examples_seen=hf_rows.whole(last.get("train samples"), "train samples"),
        nonpadding_tokens=tokens,
        tokens_per_second=tokens / seconds if tokens and seconds else None,
        steps_done=hf_rows.whole(last.get("step"), "step"),
        scored_step=hf_rows.whole(last.get("step"), "step") if "test accuracy" in last else None,
        last_loss=_last_loss(steps),
    )


def _stated(config: Mapping[str, Any], meta: Mapping[str, Any], last: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a file states of how its score was made, by the names that protocols of published tables have.

    Beams and sampling are not among it: they are those of the base model's own generation config, which no file has.
    """
    data, generation = meta["dataset_info"], config.get("generation_kwargs") or {}
    found = {
        "train_data": "MetaMathQA" if "metamath" in data else None,
        "test_data": "GSM8K" if "gsm8k" in data else None,
        "test_split": "test" if "test accuracy" in last else None,
        "score": "last step" if "test accuracy" in last and last.get("step") == config.get("max_steps") else None,
        "task_kind": "generation" if generation else None,
        "template": str(config.get("query_template") or "").replace("{query}", "{{ query }}") or None,
        "num_beams": generation.get("num_beams"),
        "max_new_tokens": generation.get("max_new_tokens"),
        "schedule": config.get("lr_scheduler"),
    }
    return _given(found)


def _steps(intervals: Sequence[Mapping[str, Any]]) -> tuple[StepRow, ...]:
    """Return a row for each interval between two validations, which is all that is stored of the learning curve."""
    found, before = [], 0
    for each in intervals:
        rate, seconds = (hf_rows.number(each.get(name), name) for name in ("tokens / sec", "train time"))
        found.append(
            StepRow(
                key="",
                step=int(each["step"]),
                loss=float(each["train loss"]),
                seconds=seconds if seconds is not None else math.nan,
                untimed=False,
                learning_rate=None,
                gradient_norm=None,
                processed_tokens=None,
                nonpadding_tokens=None if rate is None or seconds is None else round(rate * seconds),
                loss_tokens=None,
                validation_score=hf_rows.number(each.get("valid accuracy"), "valid accuracy"),
                covered_steps=each["step"] - before,
            )
        )
        before = each["step"]
    return tuple(found)


def _last_loss(steps: Sequence[StepRow]) -> float | None:
    """Return the mean loss of the last tenth of the steps; None if no intervals make up the last tenth."""
    total, covered, losses = steps[-1].step if steps else 0, 0, []
    for step in reversed(steps):
        if covered >= total * _TAIL:
            break
        covered += step.covered_steps or 1
        losses += [step.loss] * (step.covered_steps or 1)
    return statistics.fmean(losses) if steps and covered == round(total * _TAIL) else None


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
        "gpus": hf_rows.gpus(system.get("accelerator")),
        "system": f"{system.get('system')} {system.get('release')}",
        "git": {"peft": meta["package_info"].get("peft-commit-hash")},
        "model": {"sha": (meta.get("model_info") or {}).get("sha")},
        "datasets": {name: each.get("sha") for name, each in meta["dataset_info"].items()},
    }
