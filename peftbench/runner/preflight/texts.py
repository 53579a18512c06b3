"""The texts of a grid's tasks and of retention: read once, checked, and what reading them found. No torch."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Container, Sequence
from dataclasses import dataclass, field, replace

from peftbench.errors import UserError
from peftbench.records import Example, Retention, Task, Trial
from peftbench.records.classes import absent
from peftbench.tasks import general_text, read

_CLASSES = 200
"""Most classes of a task whose examples are counted by class."""
_ANSWERS = 20
"""Most distinct answers in training for those of an ``exact_match`` task to be taken for classes."""


@dataclass
class Texts:
    """The examples of every task and split, each read only once."""

    found: dict[tuple[str, str], read.Reading] = field(default_factory=dict)
    general: dict[Retention, general_text.GeneralText] = field(default_factory=dict)
    """Each source of general text."""
    stand_in: bool = False
    """Whether they only stand in for the suite's own, as in smoke mode: they are checked, and nothing is noted."""
    described: dict[tuple[object, ...], tuple[str | None, str | None]] = field(default_factory=dict)
    """What ``columns`` gave, by what it depends on."""

    def reading(self, task: Task, split: str) -> read.Reading:
        """Return what reading a split found.

        Raises:
            UserError: as ``read.reading``.
        """
        key = (repr(replace(task, stop=Task.stop)), split)  # stop texts are not read; they may follow from what is
        if key not in self.found:
            self.found[key] = read.reading(task, split)
        return self.found[key]

    def examples(self, task: Task, split: str) -> list[Example]:
        """Return a split's examples."""
        return self.reading(task, split).examples

    def general_text(self, source: Retention) -> general_text.GeneralText:
        """Return the text of a source on which retention is measured.

        Raises:
            UserError: as ``general_text.read``.
        """
        if source not in self.general:
            self.general[source] = general_text.read(source)
        return self.general[source]


def check(trials: Sequence[Trial], texts: Texts, unseen: Container[str] = ()) -> tuple[str, ...]:
    """Check before anything runs that all texts can be read, and that no split that is used is empty.

    All splits of a task are read, as all enter a trial's key.

    Args:
        trials: the trials of a grid.
        texts: keeps what was read.
        unseen: names of tasks whose data is not read, since it may have to be downloaded.

    Returns:
        Notes: what was found out, changed or left out in reading, and classes that no scored example has.

    Raises:
        UserError: if a text is missing, cannot be read or cannot be encoded, or a split is empty.
    """
    notes: list[str] = []
    for source in dict.fromkeys(trial.retention for trial in trials if trial.retention):
        if general_text.as_task(source).name not in unseen:
            texts.general_text(source)
    for trial in {_uses(trial): trial for trial in trials}.values():
        _check_splits(trial, texts, unseen)
        notes += [] if texts.stand_in else _notes(trial, texts, unseen)
    return tuple(dict.fromkeys(notes))


def columns(trial: Trial, texts: Texts) -> tuple[str | None, str | None]:
    """Return the columns ``reading_json`` and ``classes_json`` of a trial; None where there is nothing to say."""
    uses = _uses(trial)
    if texts.stand_in:
        return None, None
    if uses not in texts.described:
        texts.described[uses] = _described(trial, texts)
    return texts.described[uses]


def _uses(trial: Trial) -> tuple[object, ...]:
    """Return everything that decides which texts a trial uses; the trials of a grid mostly agree in it."""
    training = trial.training
    trained = None if training is None else (training.data, bool(training.validate_every))
    return (*map(repr, trial.tasks), trial.evaluate, trial.evaluation.split, trained, trial.retention)


def _described(trial: Trial, texts: Texts) -> tuple[str | None, str | None]:
    notes = _read(trial, texts)
    tasks = {task.name: task for task in trial.tasks}
    counts = {name: _classes(tasks[name], trial, texts) for name in trial.evaluate}
    known = {name: count for name, count in counts.items() if count}
    return (
        json.dumps({"found": notes}, ensure_ascii=False) if notes else None,
        json.dumps(known, ensure_ascii=False) if known else None,
    )


def _check_splits(trial: Trial, texts: Texts, unseen: Container[str]) -> None:
    tasks = {task.name: task for task in trial.tasks}
    wanted = [(name, trial.evaluation.split) for name in trial.evaluate]
    if trial.training is not None:
        wanted += [(name, "train") for name, _ in trial.training.data]
        if trial.training.validate_every:
            wanted += [(name, "validation") for name, _ in trial.training.data]
    for name, split in wanted:
        if name not in unseen and not texts.examples(tasks[name], split):
            raise UserError(f"task {name!r}: its {split} split is empty")


def _notes(trial: Trial, texts: Texts, unseen: Container[str]) -> list[str]:
    notes = _read(trial, texts, unseen)
    for task in trial.tasks:
        if task.name in trial.evaluate and task.name not in unseen:
            missing = absent(_classes(task, trial, texts))
            if missing:
                notes.append(f"task {task.name!r}: {missing}")
    return notes


def _read(trial: Trial, texts: Texts, unseen: Container[str] = ()) -> list[str]:
    """Return notes on reading the data that a trial trains on, is validated on and is scored on."""
    found: list[str] = []
    for task in trial.tasks:
        if task.name not in unseen and not task.builtin:
            for split in read.splits(task):
                found += texts.reading(task, split).notes
    found += texts.general[trial.retention].notes if trial.retention in texts.general else ()
    return list(dict.fromkeys(found))


def _classes(task: Task, trial: Trial, texts: Texts) -> dict[str, int]:
    """Return the number of scored examples of each class; empty if the task has no classes, or too many.

    Classes are the choices that all examples share; of an ``exact_match`` task, the answers of its training examples if
    they are few. Without either, a single answer of all scored examples is a class.
    """
    scored = texts.examples(task, trial.evaluation.split)
    names: Sequence[str] = scored[0].choices if scored else ()
    if any(e.choices != names for e in scored):
        return _only_class(task, scored)
    if not names and task.kind == "exact_match" and task.answer_pattern is None and "train" in read.splits(task):
        answers = dict.fromkeys(e.target for e in texts.examples(task, "train"))
        names = tuple(answers) if len(answers) <= _ANSWERS else ()
    if not 1 < len(names) <= _CLASSES:
        return _only_class(task, scored)
    counts = Counter(e.target for e in scored)
    return {name: counts[name] for name in names}


def _only_class(task: Task, scored: Sequence[Example]) -> dict[str, int]:
    """Return the answer that all scored examples have, with their number; empty if they have different ones."""
    answers = {e.target for e in scored} if task.kind in ("choice", "exact_match") else set()
    return dict.fromkeys(answers, len(scored)) if len(answers) == 1 else {}
