"""A trial's identity: its settings as plain data, and its key, a hash of the settings, the base model and the data."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peftbench.methods import late_defaults
from peftbench.models.find import _without_folders, base_name
from peftbench.records import Trial
from peftbench.version import PROTOCOL


def settings(trial: Trial) -> dict[str, Any]:
    """Return every resolved setting of a trial as plain data, paths reduced to file names."""
    tasks = []
    for task in trial.tasks:
        plain = _plain(task)
        plain["files"] = {split: Path(name).name for split, name in task.files.items()}
        if task.dataset is not None:
            plain["dataset"] = _without_folders(task.dataset)
        if task.lm_eval:
            plain["lm_eval"] = Path(task.lm_eval).name
        tasks.append(plain)
    return {
        "base": {**_plain(trial.base), "source": base_name(trial.base)},
        "method": trial.method,
        "precision": trial.precision,
        "rank": trial.rank,
        "options": dict(trial.options),
        "seed": trial.seed,
        "tasks": tasks,
        "evaluate": list(trial.evaluate),
        "train": _plain(trial.training) if trial.training else None,
        "evaluation": _plain(trial.evaluation),
        "device": trial.device,
        "threads": trial.threads,
    }


def _plain(record: Any) -> dict[str, Any]:
    """Return a record's fields as a dict.

    Fields that were added after results were stored (``late``) are left out at their default, so that older rows keep
    the same settings.
    """
    plain = dataclasses.asdict(record)
    for each in dataclasses.fields(record):
        factory = each.default_factory
        default = each.default if factory is dataclasses.MISSING else factory()
        if each.metadata.get("late") and plain[each.name] == default:
            del plain[each.name]
    return plain


def key(trial: Trial, base_sha256: str, data_sha256: str) -> str:
    """Return the trial's key: 16 hexadecimal digits of a hash of everything that its numbers depend on.

    Files enter with their content, not with their names, folders and revisions. The suite's name and the time limit do
    not enter, nor do settings at their default that were added after results were stored.
    """
    plain = settings(trial)
    late = late_defaults(trial.method)
    plain["options"] = {n: value for n, value in trial.options.items() if n not in late or value != late[n]}
    plain["base"] = {k: v for k, v in plain["base"].items() if k in ("trust_remote_code", "random_weights")}
    for task in plain["tasks"]:
        for where in ("files", "dataset", "config", "revision", "splits", "lm_eval"):
            task.pop(where, None)  # the content is in the data's hash
    everything: Mapping[str, Any] = {
        **plain,
        "base_sha256": base_sha256,
        "data_sha256": data_sha256,
        "protocol": PROTOCOL,
    }
    text = json.dumps(everything, sort_keys=True, default=list)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
