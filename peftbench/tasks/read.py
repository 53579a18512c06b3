"""A task's examples: generated, or read from a file and put through its templates. No torch."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from peftbench.errors import UserError, nearest, unknown
from peftbench.methods import resolve
from peftbench.records import Example, Task
from peftbench.tasks import DEFAULT_TEST_SEED, TASKS

_SPLIT_SEED = "peftbench validation split"


def splits(task: Task) -> tuple[str, ...]:
    """Return the splits that the task has, of train, validation and test."""
    if task.builtin:
        return ("train", "validation", "test")
    if task.lm_eval:
        return ("test",)
    cut = task.validation_fraction > 0 and "train" in task.files
    return tuple(s for s in ("train", "validation", "test") if s in task.files or (s == "validation" and cut))


def examples(task: Task, split: str) -> list[Example]:
    """Return the examples of one split in file order; ``limit`` applies to every split but train.

    Raises:
        UserError: if the split does not exist, the file is missing, empty or unreadable, a template asks for a field
            that the data does not have, or an answer is not among the choices.
    """
    if split not in splits(task):
        raise UserError(f"task {task.name!r}: " + unknown("split", split, splits(task)))
    if task.lm_eval:
        return resolve("peftbench.tasks.by_lm_eval:examples")(task)  # it imports lm-eval
    if task.builtin:
        seed = DEFAULT_TEST_SEED if task.test_seed is None else task.test_seed
        found: list[Example] = resolve(TASKS[task.builtin].examples)(split, seed)
    else:
        found = _from_file(task, split)
    return found if split == "train" or task.limit is None else found[: task.limit]


def fingerprint(tasks: Sequence[Task]) -> str:
    """Return the SHA-256 of every example of every split of the tasks, and of how they are scored."""
    digest = hashlib.sha256()
    for task in tasks:
        if task.lm_eval:
            digest.update(resolve("peftbench.tasks.by_lm_eval:fingerprint")(task).encode())
            continue
        digest.update(json.dumps([task.name, task.kind, task.max_new_tokens]).encode())
        for split in splits(task):
            for e in examples(task, split):
                record = [split, e.prompt, e.target, e.choices, e.references, e.slots]
                digest.update(json.dumps(record, ensure_ascii=False).encode())
    return digest.hexdigest()


def _from_file(task: Task, split: str) -> list[Example]:
    if split == "validation" and "validation" not in task.files:
        return _cut(task, _render(task, Path(task.files["train"])))[1]
    found = _render(task, Path(task.files[split]))
    if split == "train" and "validation" not in task.files and task.validation_fraction > 0:
        return _cut(task, found)[0]
    return found


def _cut(task: Task, found: list[Example]) -> tuple[list[Example], list[Example]]:
    """Split training examples into (train, validation), the same way on every machine."""
    order = list(range(len(found)))
    random.Random(_SPLIT_SEED).shuffle(order)
    held_out = set(order[: max(1, round(len(found) * task.validation_fraction))])
    return (
        [e for i, e in enumerate(found) if i not in held_out],
        [e for i, e in enumerate(found) if i in held_out],
    )


def _render(task: Task, path: Path) -> list[Example]:
    from jinja2 import StrictUndefined, TemplateError
    from jinja2.sandbox import SandboxedEnvironment

    rows = _rows(task, path)
    environment = SandboxedEnvironment(undefined=StrictUndefined)
    try:
        prompt, target = environment.from_string(task.prompt), environment.from_string(task.target)
    except TemplateError as error:
        raise UserError(f"task {task.name!r}: a template cannot be read: {error}") from None
    found = []
    for number, row in enumerate(rows, 1):
        where = f"task {task.name!r}: {path.name}, example {number}"
        try:
            answer = target.render(row).strip()
            found.append(Example(prompt.render(row).rstrip(), answer, task.choices, (answer,)))
        except Exception as error:  # a template may do arithmetic, look things up, call filters
            fields = ", ".join(row)
            raise UserError(f"{where}: a template failed: {error}; its fields are: {fields}") from None
        if task.choices and answer not in task.choices:
            raise UserError(f"{where}: " + unknown("answer", answer, task.choices))
    return found


def _rows(task: Task, path: Path) -> list[dict[str, Any]]:
    """Return a data file's records, every field of CSV and TSV as text."""
    if not path.is_file():
        siblings = [p.name for p in path.parent.iterdir() if p.is_file()] if path.parent.is_dir() else []
        near = nearest(path.name, siblings)
        hint = f"; did you mean {near!r}?" if near else ""
        raise UserError(f"task {task.name!r}: no such file: {path}{hint}")
    try:
        rows = _parse(path, task.columns)
    except UserError as error:
        raise UserError(f"task {task.name!r}: {error}") from None
    except Exception as error:  # whatever a parser of one of five formats raises
        raise UserError(f"task {task.name!r}: {path} cannot be read as {path.suffix[1:]}: {error}") from None
    if not rows:
        raise UserError(f"task {task.name!r}: {path} holds no examples")
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            kind = type(row).__name__
            raise UserError(f"task {task.name!r}: {path}, example {number}: expected an object with fields, got {kind}")
    return rows


def _parse(path: Path, columns: tuple[str, ...]) -> list[dict[str, Any]]:
    if path.suffix == ".jsonl":
        return _parse_lines(path)
    if path.suffix == ".json":
        data = json.loads(path.read_text(encoding="utf-8-sig"))
        if not isinstance(data, list):
            raise UserError(f"{path}: expected a JSON list of objects, got {type(data).__name__}")
        return data
    if path.suffix == ".parquet":
        import pandas

        return pandas.read_parquet(path).to_dict("records")  # type: ignore[return-value]
    if path.suffix in (".csv", ".tsv"):
        return _parse_separated(path, columns)
    raise UserError(f"{path}: " + unknown("file type", path.suffix, [".csv", ".tsv", ".json", ".jsonl", ".parquet"]))


def _parse_lines(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    # not splitlines: a JSON text may hold U+2028 and the like as they are
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), 1):
        try:
            rows += [json.loads(line)] if line.strip() else []
        except json.JSONDecodeError as error:
            raise UserError(f"{path}, line {number}: not JSON: {error.msg} (column {error.colno})") from None
    return rows


def _parse_separated(path: Path, columns: tuple[str, ...]) -> list[dict[str, Any]]:
    import csv

    # tab-separated corpora carry bare quotes: quoting would swallow lines
    quoting: Any = csv.QUOTE_NONE if path.suffix == ".tsv" else csv.QUOTE_MINIMAL
    with path.open(newline="", encoding="utf-8-sig") as file:
        lines = csv.reader(file, delimiter="\t" if path.suffix == ".tsv" else ",", quoting=quoting, strict=True)
        try:
            return _records(path, lines, columns)
        except csv.Error as error:
            raise UserError(f"{path}, line {lines.line_num}: {error} (is a quote left open?)") from None


def _records(path: Path, lines: Any, columns: tuple[str, ...]) -> list[dict[str, Any]]:
    """Return one record per line of a csv reader; its first line names the fields where no columns are given."""
    header = list(columns) or next(lines, [])
    if len(set(header)) < len(header):
        raise UserError(f"{path}: two columns have the same name: {', '.join(header)}")
    rows: list[dict[str, Any]] = []
    for values in lines:
        if not values:
            continue
        if len(values) != len(header):
            raise UserError(f"{path}, line {lines.line_num}: {len(values)} fields, expected {len(header)}: {header}")
        if not rows and values == list(columns):
            raise UserError(f"{path} has a header line; leave 'columns' out, which is for files without one")
        rows.append(dict(zip(header, values, strict=True)))
    return rows
