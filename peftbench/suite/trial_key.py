"""A trial's identity: its settings as plain data, and its key, a hash of the settings, the base model and the data."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from peftbench.models.find import _without_folders, base_name
from peftbench.records import Retention, Training, Trial
from peftbench.records.attention import AUTO
from peftbench.version import PROTOCOL

_LAYOUT = ("encoding", "delimiter", "quoting")
"""Keys about how a file is read: the texts that it then has are in the data's hash."""
LATER: Mapping[str, Any] = MappingProxyType(
    {
        "logits": "all",
        "attention": AUTO,
        "offload": "none",
        "compute": "auto",
        "compile": "none",
        "kernels": "none",
    }
)
"""Training settings that results of this version may be older than, with their default: how trials were run before."""
LATER_OPTIONS: Mapping[str, Any] = MappingProxyType(
    {"lora_fa": False, "riemannian": False, "experts": "auto", "turns": "none", "turn_size": None, "turn_steps": None}
)
"""The same of methods' options."""
KEY_VERSION = 2
"""Version of what enters a key. Version 1 left out settings at their default if results were older than the setting."""


def settings(trial: Trial) -> dict[str, Any]:
    """Return every resolved setting of a trial as plain data, paths reduced to file names."""
    tasks = []
    for task in trial.tasks:
        plain = dataclasses.asdict(task)
        plain["files"] = {split: Path(name).name for split, name in task.files.items()}
        if task.dataset is not None:
            plain["dataset"] = _without_folders(task.dataset)
        if task.lm_eval:
            plain["lm_eval"] = Path(task.lm_eval).name
        tasks.append(plain)
    return {
        "base": {**dataclasses.asdict(trial.base), "source": base_name(trial.base)},
        "method": trial.method,
        "precision": trial.precision,
        "rank": trial.rank,
        "options": _without(LATER_OPTIONS, trial.options),
        "seed": trial.seed,
        "tasks": tasks,
        "evaluate": list(trial.evaluate),
        "train": _training(trial.training) if trial.training else None,
        "evaluation": dataclasses.asdict(trial.evaluation),
        "device": trial.device,
        "threads": trial.threads,
        "inference": trial.inference,
        "retention": _retention(trial.retention),
        "deployed": list(trial.deployed),
        **({"devices": dataclasses.asdict(trial.devices)} if trial.devices else {}),
    }


def _training(training: Training) -> dict[str, Any]:
    """Return the training settings; those of ``LATER`` only if they are not at their default."""
    return _without(LATER, dataclasses.asdict(training))


def _without(later: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings without those that are at the default of a setting that was added later."""
    return {name: value for name, value in given.items() if name not in later or value != later[name]}


def _retention(source: Retention | None) -> dict[str, Any] | None:
    """Return the source of general text without the folders of this machine."""
    if source is None:
        return None
    plain = dataclasses.asdict(source)
    if source.file is not None:
        plain["file"] = Path(source.file).name
    if source.dataset is not None:
        plain["dataset"] = _without_folders(source.dataset)
    return plain


def key(trial: Trial, base_sha256: str, data_sha256: str, retention_sha256: str | None = None) -> str:
    """Return the trial's key: 16 hexadecimal digits of a hash of everything that its numbers depend on.

    All settings enter, also those at their default; a setting that is added later therefore changes every key, but for
    ``devices``, which enters only if a trial has several, and those of ``LATER`` and ``LATER_OPTIONS``. Files enter
    with their content, not with their names, folders and revisions. The suite's name and the time limit do not enter.

    Args:
        trial: the trial.
        base_sha256: hash of the base model's files.
        data_sha256: hash of the tasks' examples.
        retention_sha256: hash of the general text on which retention is measured; None if it is not measured.
    """
    plain = settings(trial)
    plain["base"] = {k: v for k, v in plain["base"].items() if k in ("trust_remote_code", "random_weights")}
    for task in plain["tasks"]:
        for where in ("files", "dataset", "config", "revision", "splits", "lm_eval", *_LAYOUT):
            task.pop(where, None)  # the content is in the data's hash
    plain["retention"] = retention_sha256  # likewise; the rest of the source says how to read it
    everything: Mapping[str, Any] = {
        **plain,
        "base_sha256": base_sha256,
        "data_sha256": data_sha256,
        "protocol": PROTOCOL,
        "key_version": KEY_VERSION,
    }
    text = json.dumps(everything, sort_keys=True, default=list)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
