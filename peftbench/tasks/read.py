"""Read a task's examples: generated, or from files or a dataset through its templates. No torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from peftbench.errors import UserError, unknown
from peftbench.records import Example, Task
from peftbench.records.resolve import resolve
from peftbench.records.wording import plural
from peftbench.tasks import DEFAULT_TEST_SEED, TASKS, encodable, files, hub
from peftbench.tasks.chunks import chunks
from peftbench.tasks.formats import whole_numbers
from peftbench.tasks.formats.records import Records
from peftbench.tasks.splits import cut, drawn, is_cut, splits, with_all_references
from peftbench.tasks.splits import given as splits_given
from peftbench.tasks.templates import CHUNK_CHARACTERS

__all__ = ["Reader", "Reading", "examples", "fingerprint", "reading", "splits"]

_DECODED = ("exact_match", "generation")
Reader = Callable[[Task, str], Sequence[Example]]
"""Gives the examples of a task's split."""


@dataclass(frozen=True)
class Reading:
    """The examples of a task's split, and what reading them found."""

    examples: list[Example]
    notes: tuple[str, ...] = ()
    """What was found out, changed or left out, as sentences without a full stop that begin with the task's name."""


def examples(task: Task, split: str) -> list[Example]:
    """Return the examples of a split; see ``reading``."""
    return reading(task, split).examples


def reading(task: Task, split: str) -> Reading:
    """Return the examples of a split in the order of the data; ``limit`` applies to every split except train.

    The limit of a built-in task takes the first examples, which are drawn already; of other tasks it is a seeded draw.

    Raises:
        UserError: if the split does not exist; if its data is missing, empty or unreadable; if a template uses a field
            that the data does not have, or gives something that is no text; if a text cannot be encoded; or if an
            answer is not among the labels or choices.
    """
    if split not in splits(task):
        raise UserError(f"task {task.name!r}: " + unknown("split", split, splits(task)))
    if task.lm_eval:
        found = resolve("peftbench.tasks.lm_eval_tasks:examples")(task)  # it imports lm-eval
        for index, e in enumerate(found):
            _check(f"task {task.name!r}: example {index + 1}", "its prompt or answer", e.prompt, e.target, *e.choices)
        return Reading(found)
    if task.builtin:
        seed = DEFAULT_TEST_SEED if task.test_seed is None else task.test_seed
        made: list[Example] = resolve(TASKS[task.builtin].examples)(split, seed)
        return Reading(made if split == "train" else made[: task.limit])
    whole = is_cut(task, split)
    given = _given(task, "train" if whole else split)
    found = cut(task, given.examples, split) if whole else given.examples
    if split == "train":
        return Reading(found, given.notes)
    if task.several_references:
        found = with_all_references(found)
    kept = drawn(found, task.limit)
    if len(kept) < len(found):
        note = f"task {task.name!r}: limit: {len(kept):,} of {plural(len(found), f'{split} example')} are drawn"
        return Reading(kept, (*given.notes, note))
    return Reading(kept, given.notes)


def fingerprint(tasks: Sequence[Task], reader: Reader = examples) -> str:
    """Return the SHA-256 of all examples of all splits of the tasks, and of how they are scored.

    Args:
        tasks: the tasks.
        reader: returns the examples of a task's split: ``examples`` or a cached version of it.
    """
    digest = hashlib.sha256()
    for task in tasks:
        if task.lm_eval:
            digest.update(resolve("peftbench.tasks.lm_eval_tasks:fingerprint")(task).encode())
            continue
        digest.update(json.dumps([task.name, task.kind, task.max_new_tokens]).encode())
        for split in splits(task):
            for e in reader(task, split):
                record: list[object] = [split, e.prompt, e.target, e.choices, e.references, e.slots]
                if e.join != Example.join:
                    record.append(e.join)
                if e.turns:
                    record.append(e.turns)
                if e.taught:
                    record.append(e.taught)
                if e.second:
                    record.append({"second": e.second})
                digest.update(json.dumps(record, ensure_ascii=False).encode())
    return digest.hexdigest()


def _given(task: Task, split: str) -> Reading:
    """Return the examples of a split that is given by a file or the dataset."""
    others = (other for other in splits_given(task) if other != split)
    found = whole_numbers.restored(_records(task, split), lambda: (_records(task, other) for other in others))
    source = Path(task.files[split]).name if split in task.files else f"{task.dataset} {task.splits[split]}"
    return _render(task, source, found)


def _records(task: Task, split: str) -> Records:
    """Return the records of a split that is given by a file or the dataset."""
    return files.read(task, Path(task.files[split])) if split in task.files else hub.read(task, split)


def _render(task: Task, source: str, records: Records) -> Reading:
    """Return records as examples.

    Args:
        task: the task with its templates.
        source: name of the file or dataset, for messages.
        records: the records of the data.
    """
    from peftbench.tasks.rendering import Broken, Templates

    templates = Templates(task)
    found, longer, after, earlier = [], 0, 0, 0
    for index, row in enumerate(records.rows):
        where = f"task {task.name!r}: {source}, {records.place(index)}"
        try:
            made = templates.render(row)
        except Broken as error:
            raise UserError(f"{where}: {error}{_hint(task, source)}") from None
        if len(made.targets) > 1 and task.kind not in _DECODED:
            raise UserError(f"{where}: target: a list of right answers; allowed for the kinds {' and '.join(_DECODED)}")
        answers = tuple(_answer(task, where, target) for target in made.targets)
        _check(where, "prompt", made.prompt)
        _check(where, "target", *answers)
        turns = made.conversation.turns if made.conversation else ()
        _check(where, "prompt", *(words for _, words in turns))
        if made.conversation:
            longer, after = longer + (made.conversation.answers > 1), after + bool(made.conversation.after)
        taught = made.conversation.taught if made.conversation and task.train_on == "every_answer" else ()
        earlier += len(taught)
        _check(where, "prompt_pair", made.second)
        example = Example(made.prompt, answers[0], task.choices, answers, content=made.content, turns=turns)
        found.append(replace(example, second=made.second, taught=taught) if made.second or taught else example)
    notes = [*records.notes, *_counted(task, found, longer, after)]
    if earlier:
        notes.append(f"{plural(earlier, 'earlier answer')} of conversations are trained on, too")
    texts = _chunked(task, found) if task.kind == "language_modelling" else found
    return Reading(texts, tuple(f"task {task.name!r}: {source}: {note}" for note in notes))


def _hint(task: Task, source: str) -> str:
    """Return a hint about a missing header, for a message about a template that failed."""
    headless = ".csv" in source.lower() or ".tsv" in source.lower()
    if not headless or task.columns:
        return ""
    return " (if that is the first example, the file has no header: give its columns)"


def _answer(task: Task, where: str, target: str) -> str:
    """Return the answer that a target stands for."""
    if not target and (task.choices or task.labels) and target not in (*task.labels, *task.choices):
        from peftbench.tasks.rendering import without_answer

        raise UserError(f"{where}: the answer is empty, as from an empty field of the file; {without_answer(task)}")
    if task.labels:
        if target not in task.labels:
            raise UserError(f"{where}: " + unknown("label", target, task.labels))
        target = task.labels[target]
    if task.choices and target not in task.choices:
        raise UserError(f"{where}: " + unknown("answer", target, task.choices))
    return target


def _check(where: str, key: str, *texts: str) -> None:
    """Check that texts can be encoded."""
    for text in texts:
        problem = encodable.problem(text)
        if problem:
            raise UserError(f"{where}: {key}: {problem}")


def _counted(task: Task, found: Sequence[Example], longer: int, after: int) -> list[str]:
    """Return notes on examples that are unusual, with their number.

    Args:
        task: the task.
        found: its examples.
        longer: number of conversations with several answers.
        after: number of conversations with messages after the last answer.
    """
    notes = []
    if longer and task.train_on == "last_answer":
        notes.append(f"of {plural(len(found), 'conversation')}, those with several answers ({longer:,}) keep the last")
    if after:
        notes.append(f"messages after the last answer are left out ({after:,} of {plural(len(found), 'conversation')})")
    if task.kind == "language_modelling":
        return notes
    taught = "the right answer there is no text at all"
    empty = (("answer", sum(not e.target for e in found), taught), ("prompt", sum(not e.prompt for e in found), ""))
    for what, count, so in empty:
        if count:
            said = f"the {what} is empty in {count:,} of {plural(len(found), 'example')}"
            notes.append(f"{said}, so {so}" if so else said)
    return notes


def _chunked(task: Task, found: Iterable[Example]) -> list[Example]:
    """Return texts as chunks, each an example with an empty prompt."""
    texts = chunks((e.target for e in found), task.separator, task.chunk_characters or CHUNK_CHARACTERS)
    return [Example("", text, join="", references=(text,)) for text in texts]
