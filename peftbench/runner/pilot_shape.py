"""What decides a trial's time but its amounts: trials of one shape differ in seed, learning rate or length only."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from peftbench.measure import environment
from peftbench.records import Task, Trial

_AMOUNTS: Mapping[str, Any] = {
    **dict.fromkeys(("steps", "epochs", "tokens", "seconds")),
    **{"learning_rate": 0.0, "schedule": "", "warmup_ratio": 0.0, "weight_decay": 0.0},
}


def shape(trial: Trial) -> str:
    """Return the name of a trial's shape on this machine."""
    training = replace(trial.training, **_AMOUNTS) if trial.training else None
    tasks = [
        (
            *(task.name, task.kind, task.max_new_tokens, task.num_beams),
            *(task.chat, task.choices, task.num_fewshot),
            _data(task),
        )
        for task in trial.tasks
    ]
    base = replace(trial.base, source=_place(trial.base.source))
    method = (trial.method, trial.rank, trial.precision, sorted(trial.options.items()))
    what: tuple[Any, ...] = (base, method, training, tasks, trial.inference, trial.retention)
    if trial.devices is not None:
        what += (trial.devices,)
    where = (trial.device, trial.threads, trial.evaluation.batch_size, trial.evaluation.max_length)
    return hashlib.sha256(repr((what, where, _machine())).encode()).hexdigest()


def _data(task: Task) -> tuple[Any, ...]:
    """Return what says whether a task's texts are the same: files with size and time of change, or the dataset."""
    paths = [Path(name).resolve() for _, name in sorted(task.files.items())]
    files = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in paths if path.exists()]
    return files, task.dataset, task.config, task.revision, task.prompt, task.prompt_pair, task.target, task.lm_eval


def _place(source: str) -> str:
    """Return a base model's folder by its whole path, and any other name as it is."""
    return str(Path(source).resolve()) if Path(source).is_dir() else source


@cache
def _machine() -> tuple[Any, ...]:
    found = environment.describe()
    return found["cpu"], found["cpus_available"], found["packages"], found["gpus"]
