"""Check before a base model is loaded that its chat template can format the tasks' messages."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from peftbench.errors import Unsupported
from peftbench.models.tokenizer import load_tokenizer
from peftbench.records import Task, Trial
from peftbench.runner.preflight.speller import spaced
from peftbench.runner.preflight.tokenizers import splits
from peftbench.tasks import chat, fewshot, hub, read

Tried = dict[tuple[Path, str, str], str | None]
"""Folder, task and split -> why the template cannot format its examples; None if it can."""
_MOST = 20_000
"""Most examples of a split that are formatted, evenly spaced."""


def check(trial: Trial, folder: Path, tried: Tried, fetches: bool = False) -> None:
    """Check the examples of each chat task and split of a trial.

    This imports transformers if there is a chat task.

    Args:
        trial: the trial.
        folder: the base model's folder.
        tried: what was found for other trials; added to.
        fetches: whether datasets of the hub are checked too, which may have to be fetched.

    Raises:
        Unsupported: as ``chat.apply``.
        UserError: if data or tokenizer cannot be read.
    """
    for task, split in splits([trial]):
        if not task.chat or task.lm_eval or (hub.is_remote(task) and not fetches):
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
        chat.apply(task, spaced(found, _MOST), tokenizer)
    except Unsupported as error:
        return str(error)
    return None
