"""Check before a run whether decoding can give the answers: stop texts, lengths, and what the tokenizer gives back."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from dataclasses import replace
from typing import Any

from peftbench.errors import UserError
from peftbench.models.tokenizer_file import TokenizerFile
from peftbench.records import Example, Task, Trial
from peftbench.runner.preflight import classes
from peftbench.runner.preflight.speller import Folder, spaced, speller_of
from peftbench.tasks import fewshot, reach, read


def resolved(trials: Sequence[Trial], reader: read.Reader, unseen: Container[str] = ()) -> tuple[Trial, ...]:
    """Return trials in which every task has stop texts and classes; what a suite leaves out follows from the targets.

    Args:
        trials: the trials.
        reader: returns a split's examples.
        unseen: names of tasks whose data is not read; they get a line feed.
    """
    trials = classes.resolved(trials, reader, unseen)
    known: dict[str, Task] = {}

    def complete(task: Task) -> Task:
        if task.stop is not None:
            return task
        if repr(task) not in known:
            plain = replace(task, stop=Task.stop)
            splits = () if task.name in unseen else read.splits(task)
            found = (e for split in splits for e in reader(plain, split))
            targets = (text for e in found for text in (e.target, *e.references))
            known[repr(task)] = replace(task, stop=reach.default_stops(task, targets))
        return known[repr(task)]

    return tuple(replace(trial, tasks=tuple(map(complete, trial.tasks))) for trial in trials)


def notes(
    asked: Sequence[Trial],
    trials: Sequence[Trial],
    reader: read.Reader,
    folder: Folder,
    unseen: Container[str] = (),
) -> tuple[str, ...]:
    """Return what decoding cannot give, a sentence for each task and split that is scored, trained on or shown.

    Args:
        asked: the trials as the suite asks for them.
        trials: the same with stop texts, as ``resolved`` returns them.
        reader: returns a split's examples.
        folder: gives the folder of a trial's base model.
        unseen: names of tasks whose data is not read.

    Raises:
        UserError: if stop texts that the suite gives cut every target of a task that needs an exact match, if the
            answer pattern finds no answer in a target, or if a choice is too long to be ranked.
    """
    found: dict[tuple[Any, ...], tuple[str, ...]] = {}
    for before, trial in zip(asked, trials, strict=True):
        given = {task.name for task in before.tasks if task.stop is not None}
        where = None if trial.base.random_weights else folder(trial)
        for task, split in _splits(trial):
            key = where, repr(task), split
            if task.name not in unseen and key not in found:
                speller = speller_of(where) if where else None
                _check_scored(trial, task, split, reader, speller)
                say = _alike if task.kind == "choice" else _decoded
                found[key] = tuple(say(task, split, reader(task, split), speller, task.name in given))
    return tuple(dict.fromkeys(note for each in found.values() for note in each))


def _splits(trial: Trial) -> Iterator[tuple[Task, str]]:
    """Yield each task with choices or decoded answers, with each split whose targets matter."""
    trained = () if trial.training is None else [name for name, _ in trial.training.data]
    for task in trial.tasks:
        scored = task.name in trial.evaluate
        if scored and task.kind in ("choice", *reach.DECODED):
            yield task, trial.evaluation.split
        if task.kind in reach.DECODED and (task.name in trained or (scored and task.num_fewshot)):
            yield task, "train"


def _check_scored(trial: Trial, task: Task, split: str, reader: read.Reader, speller: TokenizerFile | None) -> None:
    """Check what a trial checks of its scored examples, before any trial loads the base model."""
    if task.name not in trial.evaluate or split != trial.evaluation.split or task.lm_eval:
        return
    examples = reader(task, split)
    fewshot.check_answers(task, split, examples)
    if speller is not None:
        reach.check_choices(
            task, examples, lambda text: len(speller.encode([f" {text}"])[0]), trial.evaluation.max_length
        )


def _decoded(
    task: Task, split: str, examples: Sequence[Example], speller: reach.Speller | None, given: bool
) -> Iterator[str]:
    """Yield what decoding cannot give of a split's targets, and the stop text that follows from them."""
    some = spaced(examples) if split == "train" else examples
    stops = task.stop or ()
    counted = reach.count(task, some, stops, speller)
    if given and split != "train" and task.kind == "exact_match" and counted.stopped == counted.examples > 0:
        raise UserError(
            f"tasks.{task.name}.stop: given {list(stops)!r}; every one of the {counted.examples:,} targets of the "
            f"{split} split contains such a text, so no answer can match; allowed: texts that do not occur in the "
            "answers (without the key, the stop text follows from the targets)"
        )
    if not given and split != "train" and stops != Task.stop:
        ends = "a blank line ends an answer" if stops else "only end-of-text ends an answer"
        yield f"task {task.name}: targets contain line feeds, so {ends}; the key `stop` sets something else"
    subject = f"task {task.name}, {split} split"
    subject += f" (checked: {len(some):,} of {len(examples):,} targets)" if len(some) < len(examples) else ""
    said = reach.sentence(subject, counted.settings(), stops, task.max_new_tokens)
    if said:
        yield said


def _alike(
    task: Task, split: str, examples: Sequence[Example], speller: reach.Speller | None, _: bool
) -> Iterator[str]:
    """Yield a sentence if the tokenizer does not tell an example's choices apart."""
    found = reach.alike(examples, speller) if speller else []
    if found:
        first, second = found[0]
        yield (
            f"task {task.name}, {split} split: the tokenizer encodes choices alike in {len(found):,} of "
            f"{len(examples):,} examples ({first!r} and {second!r}): the first of them is always ranked first"
        )
