"""Which tasks of a cell a column of a layout counts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from peftbench.records.wording import series
from peftbench.report.collect import Cell, read_json
from peftbench.report.folders import Part
from peftbench.report.published.load import names
from peftbench.report.published.records import Layout, TaskMatch

if TYPE_CHECKING:
    from peftbench.report.published.measured import MeasuredRow


def tasks_of(cell: Cell, part: Part, match: TaskMatch) -> tuple[str, ...]:
    """Return the tasks of a cell whose mean a column is: one, or all those of a group of lm-eval; empty for none.

    Of a group, as MMLU is, the tasks count only if the cell has every one: a mean of some is another number.
    """
    scored, blocks = _scored(cell, part)
    alone = _alone(scored, blocks, match)
    if alone:
        return (alone[0],)
    for group in match.lm_eval:
        members = {blocks.get(name, {}).get("lm_eval"): name for name in scored}
        wanted = names().groups.get(group, ())
        if wanted and all(one in members for one in wanted):
            return tuple(members[one] for one in wanted)
    return ()


def builtin(part: Part) -> set[str]:
    """Return the names of a folder's scored tasks whose data come with peftbench, which no table of others has."""
    blocks = [_scored(cell, part)[1] for cell in part.results.cells]
    return {name for each in blocks for name, task in each.items() if task.get("builtin")} & {*part.results.tasks}


def _scored(cell: Cell, part: Part) -> tuple[list[str], dict[str, Mapping[str, Any]]]:
    """Return the names of a cell's scored tasks, and the settings of all its tasks by name."""
    settings = read_json(cell.rows[0]["settings_json"])
    tasks = [one for one in settings.get("tasks") or [] if isinstance(one, dict)]
    blocks: dict[str, Mapping[str, Any]] = {str(one.get("name")): one for one in tasks}
    evaluated = settings.get("evaluate")
    return [name for name in part.results.tasks if not isinstance(evaluated, list) or name in evaluated], blocks


def _alone(scored: Iterable[str], blocks: Mapping[str, Mapping[str, Any]], match: TaskMatch) -> list[str]:
    """Return the tasks each of which a column counts by itself."""
    given = ((name, blocks.get(name, {})) for name in scored)
    return [name for name, task in given if matches(name, task, match) and not group_of(task, match)]


def several(rows: Iterable[MeasuredRow], layout: Layout) -> Iterator[str]:
    """Yield a sentence for each number of a table for which several tasks of its cell count, as it shows one."""
    for row in rows:
        for one in row.values.values():
            column = one.shown.column
            match = layout.row_tasks[row.task] if row.task else column.task
            found = _alone(*_scored(one.shown.cell, one.part), match) if match else ()
            if len(found) > 1:
                head = row.task or column.head
                yield f"{head}: {series(list(found))} of {one.part.name} count for it; shown is {found[0]}."


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
