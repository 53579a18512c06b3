"""Results of EleutherAI's lm-evaluation-harness as results folders: ``results_*.json`` with ``samples_*.jsonl``.

A run of a model becomes a row with a score for each task. The files that one argument names, a folder with all below it
or single files, are one night. Files of the same model with the same settings and versions are one row, as a model is
often evaluated task by task; a task that was run again begins another row, which has the date in its name. A copy of a
file counts once.

- Nothing is known about training: every column about it is null. A model counts as seed 0, since it is one checkpoint:
  without a seed it would be an untuned base model, of which another seed gives the same.
- The score of a task is its first metric that is known to be a fraction of 1 and better when higher; all others are
  kept beside it. BLEU and ROUGE are none: they are of 100 there, or of 1.
  A perplexity task with samples has the mean probability per byte of its texts, as our own tasks have; without, none.
- A group is no task of its own, since its tasks are there. Its aggregate is kept in ``scores_json``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from peftbench.errors import UserError
from peftbench.records import Result, TrialRow
from peftbench.records.wording import plural
from peftbench.results.imported import lm_eval_names
from peftbench.results.imported.lm_eval_run import Run, run_of
from peftbench.results.imported.night import ImportedNight

SUITE = "lm_eval"
METHOD = "model"
_RESULTS = ("results_*.json", "*_[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]T*.json")
"""Names of results files; the second is that of a file which ``--output_path`` names."""


def read(given: Sequence[Path]) -> list[ImportedNight]:
    """Return the nights that are in files: of each folder one, of all files that are given singly another.

    Raises:
        UserError: if there is no such file, it is no result of lm-eval, or a file of samples is not whole.
    """
    nights = []
    loose = [path for path in given if not path.is_dir()]
    for path in given:
        if path.is_dir():
            files = sorted({file for pattern in _RESULTS for file in path.rglob(pattern)})
            if not files:
                raise UserError(f"{path} has no results of lm-eval in it ({_RESULTS[0]}, which --output_path writes)")
            night = _night(files, path.resolve().name)
            nights.append(replace(night, source=f"{plural(len(files), 'results file')} of {path}"))
    if loose:
        nights.append(replace(_night(loose, ""), source=plural(len(loose), "results file")))
    names = [night.name for night in nights]
    if len(set(names)) < len(names):
        raise UserError("two of the folders have the same name and date: import them into different folders")
    return sorted(nights, key=lambda night: night.name)


def _night(paths: Iterable[Path], name: str) -> ImportedNight:
    runs: dict[str, Run] = {}
    for run in map(run_of, paths):
        if run.digest not in runs or run.logged > runs[run.digest].logged:  # a copy may have lost its samples
            runs[run.digest] = run
    together = _together(sorted(runs.values(), key=lambda run: run.started))
    cells = lm_eval_names.cells([each[-1] for each in together])
    results = tuple(_result(each, cell) for each, cell in zip(together, cells, strict=True))
    date = max(str(result.row.started_at) for result in results)[:10]
    tasks = dict.fromkeys(score.task for result in results for score in result.scores)
    every = dict.fromkeys(task.name for each in together for run in each for task in run.tasks)
    unscored = tuple(name for name in every if name not in tasks)
    return ImportedNight(f"{date}_{name}" if name else date, results, tuple(tasks), unscored)


def _together(runs: Iterable[Run]) -> list[list[Run]]:
    """Return the runs of each row, the oldest first: of one model, and of different tasks."""
    rows: dict[str, list[list[Run]]] = {}
    for run in runs:
        of_model = rows.setdefault(run.identity, [[]])
        names = {task.name for task in run.tasks}
        if any(task.name in names for other in of_model[-1] for task in other.tasks):
            of_model.append([])
        of_model[-1].append(run)
    return [row for of_model in rows.values() for row in of_model]


def _result(runs: Sequence[Run], cell: str) -> Result:
    """Return the runs of one model as a result. Its key is made of the files alone."""
    newest = runs[-1]
    tasks = {task.name: task for run in runs for task in run.tasks}
    scores = tuple(task.score for task in tasks.values() if task.score)
    groups = {group.task: group for run in runs for group in run.groups}
    files = " ".join(sorted(run.digest for run in runs))
    digest = hashlib.sha256(f"{SUITE} {files}".encode()).hexdigest()[:32]
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
        base=lm_eval_names.short(lm_eval_names.base(newest)),
        method=METHOD,
        cell=cell,
        named_settings=cell,
        precision=lm_eval_names.precision(newest),
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
