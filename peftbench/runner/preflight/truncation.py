"""Count before a run which examples will be truncated, and what they lose."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterator, Sequence
from dataclasses import replace
from typing import Any

from peftbench.models.tokenizer_file import TokenizerFile
from peftbench.records import HEADS, Example, Task, Trial
from peftbench.records.wording import plural
from peftbench.runner.preflight.speller import Folder, spaced, speller_of
from peftbench.tasks import chat, fewshot, reach, read
from peftbench.training.encoded import LOST, lost


def notes(trials: Sequence[Trial], reader: read.Reader, folder: Folder, unseen: Container[str] = ()) -> tuple[str, ...]:
    """Return a sentence for each split of a task of which examples will be truncated.

    The text that a chat template adds is not counted, so there may be more.

    Args:
        trials: the trials.
        reader: returns a split's examples.
        folder: gives the folder of a trial's base model.
        unseen: names of tasks whose data is not read.
    """
    found: dict[tuple[Any, ...], str | None] = {}
    for trial in trials:
        where = None if trial.base.random_weights else folder(trial)
        tokenizer = speller_of(where) if where else None
        if where is None or tokenizer is None:
            continue
        for task, split, length in _used(trial):
            key = where, repr(task), split, length
            if task.name not in unseen and key not in found and chat.has_template(task, where):
                found[key] = _sentence(task, split, length, reader, tokenizer)
    return tuple(dict.fromkeys(note for note in found.values() if note))


def _used(trial: Trial) -> Iterator[tuple[Task, str, int]]:
    """Yield each task with a split that is trained on or scored, and the tokens that its examples may have."""
    tasks = {task.name: task for task in trial.tasks}
    for name in trial.evaluate:
        if tasks[name].kind in ("choice", *reach.DECODED, *HEADS):
            yield tasks[name], trial.evaluation.split, trial.evaluation.max_length
    if trial.training is not None:
        for name, _ in trial.training.data:
            yield tasks[name], "train", trial.training.sequence_length


def _sentence(task: Task, split: str, length: int, reader: read.Reader, tokenizer: TokenizerFile) -> str | None:
    examples = reader(task, split)
    size = len(examples)
    if split == "train":
        examples, limit = spaced(examples), f"sequence_length ({length})"
    else:
        examples = fewshot.with_shots(task, examples, reader(task, "train")) if task.num_fewshot else examples
        limit = f"evaluate.max_length ({length})"
    what = Counter(filter(None, _losses(task, split, length, examples, tokenizer)))
    if not what:
        return None
    of = f"{len(examples):,} checked of {size:,} examples" if len(examples) < size else plural(size, "example")
    least = "at least " if task.chat else ""
    sentences = [f"task {task.name}, {split} split: {least}{what.total():,} of {of} exceed {limit}"]
    if split != "train" and task.kind in reach.DECODED:
        sentences.append(f"This includes max_new_tokens ({task.max_new_tokens}) for the answer")
    sentences.append(f"They are cut on the {'right' if task.kind in HEADS else 'left'}")
    sentences += [f"{what[name]:,} lose{'s' * (what[name] == 1)} {words}" for name, words in LOST.items() if what[name]]
    return ". ".join(sentences)


def _losses(
    task: Task, split: str, length: int, examples: Sequence[Example], tokenizer: TokenizerFile
) -> Iterator[str | None]:
    """Yield what each example loses, in training with its end-of-text token."""
    if task.kind in HEADS:
        first = [e.prompt for e in examples]
        if task.prompt_pair:
            counted = tokenizer.lengths_of_pairs(first, [e.second for e in examples])
        else:
            counted = [len(ids) for ids in tokenizer(first)["input_ids"]]
        yield from ("text_end" if n > length else None for n in counted)
        return
    examples = [_given(task, e) for e in examples]
    added = tokenizer.added()
    prompts = [len(ids) + added for ids in tokenizer.encode([e.prompt for e in examples])]
    if split != "train" and task.kind in reach.DECODED:
        yield from (lost(prompt + task.max_new_tokens - length, prompt + task.max_new_tokens) for prompt in prompts)
        return
    answers = [(e.target,) if split == "train" else e.choices for e in examples]
    texts = iter(
        tokenizer.encode([e.prompt + e.join + a for e, each in zip(examples, answers, strict=True) for a in each])
    )
    for e, prompt, each in zip(examples, prompts, answers, strict=True):
        longest = max(len(next(texts)) for _ in each) + added
        excess = longest + 1 - length if split == "train" else longest - 1 - length
        yield lost(excess, prompt if e.prompt else 0)


def _given(task: Task, example: Example) -> Example:
    """Return an example with the texts that a chat template certainly writes; other tasks' examples unchanged.

    The messages of a conversation are written without the words of a prompt, and some templates leave out thinking.
    """
    if not task.chat:
        return example
    turns = "".join(_said(words) for _, words in example.turns)
    prompt = turns if example.turns else example.prompt.strip()
    return replace(example, prompt=prompt, target=_said(example.target))


def _said(words: str) -> str:
    """Return a message without a thinking block at its beginning."""
    return words.rpartition("</think>")[2].strip()
