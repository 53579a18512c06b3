"""Check before a run that a base model's chat template can format the tasks' messages."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from peftbench.errors import Unsupported
from peftbench.models.tokenizer import load_tokenizer
from peftbench.records import Task, Trial
from peftbench.runner.preflight.tokenizers import splits
from peftbench.tasks import chat, fewshot, hub, read

Tried = dict[tuple[Path, str, str], str | None]
"""Folder, task and split -> why the template cannot format its first example; None if it can."""


def check(trial: Trial, folder: Path, tried: Tried) -> None:
    """Check the first example of each chat task and split of a trial, as far as its data is on this machine.

    This imports transformers if there is a chat task.

    Args:
        trial: the trial.
        folder: the base model's folder.
        tried: what was found for other trials; added to.

    Raises:
        Unsupported: as ``chat.apply``.
        UserError: if data or tokenizer cannot be read.
    """
    for task, split in splits([trial]):
        if not task.chat or task.lm_eval or hub.is_remote(task):
            continue
        asked = folder, repr(task), split
        if asked not in tried:
            tried[asked] = _why_not(task, split, _tokenizer(folder, trial.base.trust_remote_code))
        reason = tried[asked]
        if reason is not None:
            raise Unsupported(reason)


_tokenizer = cache(load_tokenizer)


def _why_not(task: Task, split: str, tokenizer: Any) -> str | None:
    found = read.examples(task, split) if split == "train" else fewshot.scored(task, split)
    try:
        chat.apply(task, found[:1], tokenizer)
    except Unsupported as error:
        return str(error)
    return None
