"""Load datasets of the Hugging Face hub by id and revision with the ``datasets`` library. No torch."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from peftbench.errors import UserError
from peftbench.records import Task
from peftbench.tasks.formats.plain import plain
from peftbench.tasks.formats.records import Records


def is_remote(task: Task) -> bool:
    """Return whether some split of a task may have to be downloaded."""
    wanted = [split for split in task.splits if split not in task.files]
    return bool(wanted) and not Path(str(task.dataset)).is_dir()


def read(task: Task, split: str) -> Records:
    """Return the records of a split in plain values, with notes; see ``rows``."""
    return plain(Records(rows(task, split)))


def rows(task: Task, split: str) -> list[dict[str, Any]]:
    """Return the records of a split, downloaded or from the cache. Code in a dataset is never run.

    Raises:
        UserError: if the dataset, revision, configuration or split does not exist or cannot be reached.
    """
    import datasets

    shown = not datasets.utils.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        found = datasets.load_dataset(
            str(task.dataset), task.config, revision=task.revision, split=task.splits[split]
        ).to_list()
    except Exception as error:  # readers of many file formats, which may raise anything
        raise UserError(f"task {task.name!r}: {_asked(task, split)}: {_why(task, error)}") from None
    finally:
        if shown:
            datasets.enable_progress_bars()
    if not found:
        raise UserError(f"task {task.name!r}: {_asked(task, split)} holds no examples")
    return found


def _asked(task: Task, split: str) -> str:
    """Return the name of a dataset and its split for a message."""
    config = f", config {task.config!r}" if task.config else ""
    revision = f" at revision {task.revision!r}" if task.revision else ""
    return f"dataset {task.dataset!r}{revision}{config}, split {task.splits[split]!r}"


def _why(task: Task, error: Exception) -> str:
    """Return why a dataset could not be loaded, and what to do about it."""
    cause = error.__cause__ or error  # the reason of "an error occurred while generating the dataset"
    reason = (str(cause) or repr(cause)).splitlines()[0]
    local = f"give local files (--set tasks.{task.name}.train=FILE), or download it first on a machine with a network"
    if isinstance(error, ConnectionError) or "offline" in reason.lower():
        state = "HF_HUB_OFFLINE is set" if os.environ.get("HF_HUB_OFFLINE") else "the hub cannot be reached"
        return f"not in the cache of datasets ({state}); {local}"
    if "scripts are no longer supported" in reason:
        return f"it is a Python script, and scripts are not run; try revision: refs/convert/parquet ({reason})"
    return reason
