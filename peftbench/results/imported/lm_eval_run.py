"""One results file of lm-eval: what it says of the model, of the settings that all tasks share, and of the machine."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from peftbench.errors import UserError
from peftbench.records import Score
from peftbench.results.imported import lm_eval_scores
from peftbench.results.imported.lm_eval_scores import TaskRun

_HOW = ("limit", "batch_size", "gen_kwargs", "random_seed", "numpy_seed", "torch_seed", "fewshot_seed")
"""Settings of a run that apply to all of its tasks."""
_CHAT = ("system_instruction_sha", "chat_template_sha", "fewshot_as_multiturn", "max_length")
_PARTS = ("results", "configs", "config")
_STAMP = re.compile(r"_(\d{4}-\d\d-\d\dT[\d.-]+)$")
"""Date at the end of a file's name, which is that of its samples too."""
_LAST_DAY = 253_402_300_799
"""The end of the year 9999, in seconds since 1970."""


@dataclass(frozen=True)
class Run:
    """One results file."""

    path: Path
    found: Mapping[str, Any]
    digest: str
    """SHA-256 of the file."""
    tasks: tuple[TaskRun, ...]
    groups: tuple[Score, ...]

    @cached_property
    def model(self) -> Mapping[str, Any]:
        """The arguments of the model; older versions wrote them as one text."""
        return _arguments(self.found["config"])

    @cached_property
    def how(self) -> dict[str, Any]:
        """The settings under which all tasks were evaluated."""
        config = {name: self.found["config"].get(name) for name in _HOW}
        return config | {name: self.found.get(name) for name in _CHAT}

    @cached_property
    def environment(self) -> dict[str, Any]:
        """Versions, device and git state."""
        packages = {name: self.found.get(f"{name}_version") for name in ("lm_eval", "transformers")}
        info = str(self.found.get("pretty_env_info") or "")
        torch = re.search(r"^PyTorch version: (\S+)", info, re.MULTILINE)
        gpus = re.findall(r"^GPU \d+: (.+?)\s*$", info, re.MULTILINE)
        packages["torch"] = torch[1] if torch else None
        return {
            "packages": {name: value for name, value in packages.items() if value},
            "gpus": [{"name": name} for name in gpus] or None,
            "git": {"commit": self.found.get("git_hash")},
            "model": {"sha": self.found["config"].get("model_sha") or None},
        }

    @property
    def started(self) -> str:
        """When it began, UTC."""
        return datetime.fromtimestamp(float(self.found["date"]), UTC).isoformat(timespec="seconds")

    @property
    def logged(self) -> int:
        """Number of examples that it has samples of."""
        return sum(len(task.examples) for task in self.tasks)

    @cached_property
    def identity(self) -> str:
        """Text that is equal for runs of one model with the same settings and versions."""
        return json.dumps([self.found["config"].get("model"), self.model, self.how, self.environment], sort_keys=True)


def run_of(path: Path) -> Run:
    """Return the run of a results file.

    Raises:
        UserError: if it cannot be read, is no results file of lm-eval, or its samples are not whole.
    """
    try:
        text = path.read_bytes()
        found = json.loads(text)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is no result of lm-eval: it is no JSON file ({error!s:.120})") from error
    problem = _problem(found)
    if problem:
        raise UserError(f"{path} is no result of lm-eval 0.4 or newer: {problem}")
    stamp = _STAMP.search(path.stem)
    end = stamp[1] if stamp else path.stem.removeprefix("results_")
    try:
        tasks = tuple(
            lm_eval_scores.task_run(found, name, path.with_name(f"samples_{name}_{end}.jsonl"))
            for name in found["results"]
            if name in found["configs"] or name not in (found.get("groups") or {})
        )
        return Run(path, found, hashlib.sha256(text).hexdigest(), tasks, tuple(lm_eval_scores.groups(found)))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is no result of lm-eval: {error!r:.160}") from error


def _problem(found: Any) -> str | None:
    """Return what a document lacks that every results file has; None if it has all."""
    if not isinstance(found, dict):
        return "it is no JSON object"
    for name in _PARTS:
        if not isinstance(found.get(name), dict):
            return f"it has no object {name!r}"
    date = found.get("date")
    if isinstance(date, bool) or not isinstance(date, int | float):
        return f"its 'date' is {date!r:.40}, not a number of seconds"
    if not 0 <= date <= _LAST_DAY:
        return f"its 'date' is {date!r:.40}, which is no time between 1970 and 9999"
    try:
        _arguments(found["config"])
    except (TypeError, ValueError):
        return f"its 'model_args' are {found['config'].get('model_args')!r:.40}, neither a text nor an object"
    return None


def _arguments(config: Mapping[str, Any]) -> dict[str, Any]:
    given = config.get("model_args") or {}
    if isinstance(given, str):
        return dict(pair.partition("=")[::2] for pair in given.split(",") if pair)
    return dict(given)
