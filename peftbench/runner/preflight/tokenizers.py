"""Check before a run that the model has an embedding for every token of the texts that it will read. No torch."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from typing import Any

from peftbench.errors import Unsupported, UserError
from peftbench.models.tokenizer import beyond, without_embedding
from peftbench.records import Example, Task, Trial
from peftbench.tasks import chat, fewshot, read
from peftbench.tasks.general_text import as_task, texts

_WAY_OUT = (
    "give the tokenizer that the model was trained with, resize the model's embeddings (resize_token_embeddings, then "
    "save_pretrained), or remove the texts"
)


def check(trials: Sequence[Trial], tokenizer: Any, rows: int | None, unseen: Container[str] = ()) -> None:
    """Check the texts of the trials of one base model; without tokens beyond the embeddings, nothing is read.

    Args:
        trials: the trials.
        tokenizer: the base model's.
        rows: number of token ids that have an embedding; None if it is not known.
        unseen: names of tasks whose data is not read.

    Raises:
        UserError: if a text contains a token without an embedding.
    """
    tokens = beyond(tokenizer, rows)
    if not tokens:
        return
    for where, text in _texts(trials, tokenizer, unseen):
        unknown = without_embedding(tokenizer(text)["input_ids"], tokens, rows)
        if unknown:
            raise UserError(f"{where} contains the {unknown}; {_WAY_OUT}")


def _texts(trials: Sequence[Trial], tokenizer: Any, unseen: Container[str]) -> Iterator[tuple[str, str]]:
    """Yield what the trials read: where it is from, and the text. Prompts of lm-eval's own tasks are not among it."""
    for task, split in splits(trials):
        if task.name in unseen or task.lm_eval:
            continue
        found = read.examples(task, split) if split == "train" else fewshot.scored(task, split)
        try:
            found = chat.apply(task, found, tokenizer)
        except Unsupported:  # its cells say so
            continue
        for index, example in enumerate(found):
            yield from ((f"task {task.name!r}: {split} example {index}", text) for text in _whole(example))
    for source in dict.fromkeys(trial.retention for trial in trials if trial.retention):
        if as_task(source).name not in unseen:
            yield from ((f"evaluate.retention: text {index}", text) for index, text in enumerate(texts(source)))


def splits(trials: Sequence[Trial]) -> list[tuple[Task, str]]:
    """Return each task with each split of it that the trials read."""
    found: dict[tuple[str, str], tuple[Task, str]] = {}
    for trial in trials:
        tasks = {task.name: task for task in trial.tasks}
        wanted = [(name, trial.evaluation.split) for name in trial.evaluate]
        if trial.training is not None:
            splits = ("train", "validation") if trial.training.validate_every else ("train",)
            wanted += [(name, split) for name, _ in trial.training.data for split in splits]
        found |= {(repr(tasks[name]), split): (tasks[name], split) for name, split in wanted}
    return list(found.values())


def _whole(example: Example) -> list[str]:
    """Return an example's texts: with its answer, and with each of its choices."""
    answers = dict.fromkeys((example.target + example.end, *example.choices))
    return [example.prompt + example.join + answer for answer in answers]
