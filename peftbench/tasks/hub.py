"""Datasets of the Hugging Face hub, by id and revision, through the ``datasets`` library. No torch."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from peftbench.errors import UserError
from peftbench.records import Task


def is_remote(task: Task) -> bool:
    """Whether some split of a task may have to be fetched."""
    wanted = [split for split in task.splits if split not in task.files]
    return bool(wanted) and not Path(str(task.dataset)).is_dir()


def rows(task: Task, split: str) -> list[dict[str, Any]]:
    """Return the records of a split: fetched, or found in the cache. A dataset's own code is never run.

    Raises:
        UserError: if there is no such dataset, revision, configuration or split, or it cannot be reached.
    """
    import datasets

    shown = not datasets.utils.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        found = datasets.load_dataset(
            str(task.dataset), task.config, revision=task.revision, split=task.splits[split]
        ).to_list()
    except Exception as error:  # its readers of files raise what they like
        raise UserError(f"task {task.name!r}: {_asked(task, split)}: {_why(task, error)}") from None
    finally:
        if shown:
            datasets.enable_progress_bars()
    if not found:
        raise UserError(f"task {task.name!r}: {_asked(task, split)} holds no examples")
    return found


def _asked(task: Task, split: str) -> str:
    """Return the dataset and its split as a message names them."""
    config = f", config {task.config!r}" if task.config else ""
    revision = f" at revision {task.revision!r}" if task.revision else ""
    return f"dataset {task.dataset!r}{revision}{config}, split {task.splits[split]!r}"


def _why(task: Task, error: Exception) -> str:
    """Return why a dataset could not be loaded, and what to do."""
    cause = error.__cause__ or error  # "an error occurred while generating the dataset" has its reason behind it
    reason = (str(cause) or repr(cause)).splitlines()[0]
    local = f"give local files (--set tasks.{task.name}.train=FILE), or fetch it first where there is a network"
    if isinstance(error, ConnectionError) or "offline" in reason.lower():
        state = "HF_HUB_OFFLINE is set" if os.environ.get("HF_HUB_OFFLINE") else "the hub cannot be reached"
        return f"not in the cache of datasets ({state}); {local}"
    if "scripts are no longer supported" in reason:
        return f"it comes as a program, which is not run; try revision: refs/convert/parquet ({reason})"
    return reason
