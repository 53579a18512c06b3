"""Which tasks of a cell a column of a layout counts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from peftbench.report.collect import Cell, read_json
from peftbench.report.folders import Part
from peftbench.report.published.load import names
from peftbench.report.published.records import TaskMatch


def tasks_of(cell: Cell, part: Part, match: TaskMatch) -> tuple[str, ...]:
    """Return the tasks of a cell whose mean a column is: one, or all those of a group of lm-eval; empty for none.

    Of a group, as MMLU is, the tasks count only if the cell has every one: a mean of some is another number.
    """
    settings = read_json(cell.rows[0]["settings_json"])
    blocks = {str(one.get("name")): one for one in settings.get("tasks") or [] if isinstance(one, dict)}
    evaluated = settings.get("evaluate")
    scored = [name for name in part.results.tasks if not isinstance(evaluated, list) or name in evaluated]
    for name in scored:
        if matches(name, blocks.get(name, {}), match) and not group_of(blocks.get(name, {}), match):
            return (name,)
    for group in match.lm_eval:
        members = {blocks.get(name, {}).get("lm_eval"): name for name in scored}
        wanted = names().groups.get(group, ())
        if wanted and all(one in members for one in wanted):
            return tuple(members[one] for one in wanted)
    return ()


def training_tasks(cell: Cell) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield each task that a cell is trained on, with its settings."""
    settings = read_json(cell.rows[0]["settings_json"])
    tasks = {str(one.get("name")): one for one in settings.get("tasks") or [] if isinstance(one, dict)}
    for name, *_ in (settings.get("train") or {}).get("data") or []:
        yield str(name), tasks.get(str(name), {})


def matches(name: str, task: Mapping[str, Any], match: TaskMatch) -> bool:
    """Return whether a task, by its name and settings, belongs in a column, alone or as one of a group."""
    dataset, config = task.get("dataset"), task.get("config")
    if dataset:
        return f"{dataset}:{config}" in match.datasets or dataset in match.datasets
    if task.get("lm_eval"):
        return task["lm_eval"] in match.lm_eval or bool(group_of(task, match))
    return not task.get("builtin") and name.lower() in match.names


def group_of(task: Mapping[str, Any], match: TaskMatch) -> str | None:
    """Return the group of lm-eval that a task is one of, if a column counts it; None if there is none."""
    groups = names().groups
    return next((group for group in match.lm_eval if task.get("lm_eval") in groups.get(group, ())), None)
