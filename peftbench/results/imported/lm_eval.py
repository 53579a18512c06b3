"""Results of EleutherAI's lm-evaluation-harness as results folders: ``results_*.json`` with ``samples_*.jsonl``.

A run of a model becomes a row with a score for each task. The files that one argument names, a folder with all below it
or single files, are one night; runs of the same model with the same settings and versions are one row, in which the
newest score of a task counts.

- Nothing is known about training: every column about it is null. A model counts as seed 0, since it is one checkpoint:
  without a seed it would be an untuned base model, of which another seed gives the same.
- The score of a task is its first metric that is a fraction of 1 and better when higher; all others are kept beside it.
  A perplexity task with samples has the mean probability per byte of its texts, as our own tasks have; without, none.
- A group is no task of its own, since its tasks are there. Its aggregate is kept in ``scores_json``.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from peftbench.errors import UserError
from peftbench.records import Result, Score, TrialRow
from peftbench.results.imported import lm_eval_scores
from peftbench.results.imported.lm_eval_scores import TaskRun
from peftbench.results.imported.night import ImportedNight

SUITE = "lm_eval"
METHOD = "model"
_RESULTS = "results_*.json"
_PRECISIONS = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}
_NAMING = ("pretrained", "peft", "delta", "dtype", "load_in_8bit", "load_in_4bit", "parallelize", "device_map")
"""Arguments of a model that are in its name already, in the precision, or change no number."""
_HOW = ("limit", "batch_size", "gen_kwargs", "use_cache", "random_seed", "numpy_seed", "torch_seed", "fewshot_seed")
"""Settings of a run that apply to all of its tasks."""
_CHAT = ("system_instruction_sha", "chat_template_sha", "fewshot_as_multiturn", "max_length")


@dataclass(frozen=True)
class _Run:
    """One results file."""

    path: Path
    found: Mapping[str, Any]
    tasks: tuple[TaskRun, ...]
    groups: tuple[Score, ...]

    @property
    def model(self) -> Mapping[str, Any]:
        """The arguments of the model; older versions wrote them as one text."""
        given = self.found["config"].get("model_args") or {}
        if isinstance(given, str):
            return dict(pair.partition("=")[::2] for pair in given.split(",") if pair)
        return dict(given)

    @property
    def how(self) -> dict[str, Any]:
        """The settings under which all tasks were evaluated."""
        config = {name: self.found["config"].get(name) for name in _HOW}
        return config | {name: self.found.get(name) for name in _CHAT}

    @property
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
    def identity(self) -> str:
        """Text that is equal for runs of one model with the same settings and versions."""
        return json.dumps([self.found["config"].get("model"), self.model, self.how, self.environment], sort_keys=True)


def read(given: Sequence[Path]) -> list[ImportedNight]:
    """Return the nights that are in files: of each folder one, of all files that are given singly another.

    Raises:
        UserError: if there is no such file, it is no result of lm-eval, or a file of samples is not whole.
    """
    nights = []
    loose = [path for path in given if not path.is_dir()]
    for path in given:
        if path.is_dir():
            files = sorted(path.rglob(_RESULTS))
            if not files:
                raise UserError(f"{path} has no results of lm-eval in it ({_RESULTS}, which --output_path writes)")
            nights.append(_night(files, path.resolve().name))
    if loose:
        nights.append(_night(loose, ""))
    names = [night.name for night in nights]
    if len(set(names)) < len(names):
        raise UserError("two of the folders have the same name and date: import them into different folders")
    return sorted(nights, key=lambda night: night.name)


def _night(paths: Iterable[Path], name: str) -> ImportedNight:
    runs: dict[str, list[_Run]] = {}
    for run in map(_run, paths):
        runs.setdefault(run.identity, []).append(run)
    together = [sorted(each, key=lambda run: run.started) for each in runs.values()]
    cells = _cells([each[-1] for each in together])
    results = tuple(_result(each, cell) for each, cell in zip(together, cells, strict=True))
    date = max(str(result.row.started_at) for result in results)[:10]
    tasks = dict.fromkeys(score.task for result in results for score in result.scores)
    every = dict.fromkeys(task.name for each in together for run in each for task in run.tasks)
    unscored = tuple(name for name in every if name not in tasks)
    return ImportedNight(f"{date}_{name}" if name else date, results, tuple(tasks), unscored)


def _run(path: Path) -> _Run:
    try:
        found = json.loads(path.read_bytes())
        for name in ("results", "configs", "config", "date"):
            if name not in found:
                raise KeyError(name)
        stamp = path.stem.removeprefix("results_")
        tasks = tuple(
            lm_eval_scores.task_run(found, name, path.with_name(f"samples_{name}_{stamp}.jsonl"))
            for name in found["results"]
            if name in found["configs"]
        )
        return _Run(path, found, tasks, tuple(lm_eval_scores.groups(found)))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is no result of lm-eval: {error!r:.160}") from error


def _cells(runs: Sequence[_Run]) -> list[str]:
    """Return a name for each run: its model, what differs from the default, and what tells it from others like it."""
    names = [_cell(run) for run in runs]
    for name in {name for name in names if names.count(name) > 1}:
        alike = [place for place, each in enumerate(names) if each == name]
        facts = [_flat(runs[place]) for place in alike]
        keys = [key for key in facts[0] if len({fact.get(key) for fact in facts}) > 1]
        for place, fact in zip(alike, facts, strict=True):
            names[place] = " ".join([name, *(f"{key}={fact.get(key)}" for key in keys)])
    return names


def _flat(run: _Run) -> dict[str, str]:
    packages = run.environment["packages"]
    return {key: json.dumps(value, sort_keys=True).strip('"') for key, value in (run.how | packages).items()}


def _cell(run: _Run) -> str:
    model, config = run.model, run.found["config"]
    words = [_short(str(model.get("pretrained") or run.found.get("model_name") or config.get("model")))]
    words += [f"+ {_short(str(model[name]))}" for name in ("peft", "delta") if model.get(name)]
    words += [f"{name}={model[name]}" for name in sorted(model) if name not in _NAMING]
    return " ".join([*words, _precision(run)])


def _short(place: str) -> str:
    return place.rstrip("/").rpartition("/")[2] or place


def _precision(run: _Run) -> str:
    model = run.model
    for name, word in (("load_in_8bit", "int8"), ("load_in_4bit", "4bit")):
        if str(model.get(name)).lower() == "true":
            return word
    dtype = str(run.found["config"].get("model_dtype") or model.get("dtype") or "unknown").removeprefix("torch.")
    return _PRECISIONS.get(dtype, dtype)


def _result(runs: Sequence[_Run], cell: str) -> Result:
    """Return the runs of one model as a result, with the newest run of each task."""
    newest = runs[-1]
    tasks = {task.name: task for run in runs for task in run.tasks}
    scores = tuple(task.score for task in tasks.values() if task.score)
    groups = {group.task: group for run in runs for group in run.groups}
    base = _short(str(newest.model.get("pretrained") or newest.found.get("model_name") or "unknown"))
    digest = hashlib.sha256(f"{SUITE} {newest.identity} {newest.started} {sorted(tasks)}".encode()).hexdigest()[:32]
    kept = {task.name: task.stored for task in tasks.values()} | {name: asdict(group) for name, group in groups.items()}
    settings = {
        "base": {"model": newest.found["config"].get("model")},
        "options": dict(newest.model),
        "evaluation": newest.how,
        "tasks": [task.settings for task in tasks.values()],
        "evaluate": [score.task for score in scores],
    }
    hashes = {name: task.sha256 for name, task in tasks.items()}
    parameters = None if newest.model.get("peft") else newest.found["config"].get("model_num_parameters")
    device = str(newest.found["config"].get("device") or "").partition(":")[0]
    row = TrialRow(
        key=digest,
        suite=SUITE,
        base=base,
        method=METHOD,
        cell=cell,
        named_settings=cell,
        precision=_precision(newest),
        rank=None,
        seed=0,
        status="ok",
        settings_json=json.dumps(settings, sort_keys=True, default=str),
        device=device or None,
        base_parameters=_count(parameters),
        data_sha256=_digest(hashes) if all(hashes.values()) else None,
        environment_json=json.dumps(newest.environment, sort_keys=True),
        scores_json=json.dumps(kept, sort_keys=True),
        started_at=newest.started,
        finished_at=newest.started,
    )
    examples = tuple(replace(example, key=digest) for task in tasks.values() for example in task.examples)
    return Result(row, (), examples, scores)


def _count(value: Any) -> int | None:
    """Return a number of parameters; -1 stands for an unknown one there."""
    return value if isinstance(value, int) and value > 0 else None


def _digest(hashes: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()
