"""A results folder for other tools: experiment trackers, CSV files, a data set for the Hugging Face hub.

Everything is written to a folder on this machine; nothing is sent anywhere. Each target is one file here and one
record of ``TARGETS``; its library is imported only if it is asked for.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from peftbench.errors import UserError, unknown


@dataclass(frozen=True)
class Target:
    """One tool that results can be exported to."""

    writer: str
    """Module with a function ``write(results, output) -> Written``."""
    about: str
    """What is written."""
    packages: tuple[str, ...] = ()
    """Modules that it needs beyond what peftbench always has; they are in the extra of the target's name."""


@dataclass(frozen=True)
class Written:
    """What an export did."""

    new: int
    """Runs, or rows of ``trials``, that were written."""
    kept: int = 0
    """Runs that an earlier export had written already, and that have not changed since."""
    hint: str = ""
    """What to do with it: a command, or what to know before it is published."""


_ROOM = "peftbench.report.export"
_OWN = ("trials", "steps", "examples", "search", "logs", "adapters")
"""Folders of a results folder."""
TARGETS: Mapping[str, Target] = MappingProxyType(
    {
        "wandb": Target(f"{_ROOM}.wandb_runs", "offline runs of Weights & Biases", ("wandb",)),
        "trackio": Target(f"{_ROOM}.trackio_runs", "a local store of Trackio", ("trackio",)),
        "mlflow": Target(f"{_ROOM}.mlflow_runs", "an SQLite store of MLflow", ("mlflow", "sqlalchemy", "alembic")),
        "csv": Target(f"{_ROOM}.csv_files", "three CSV files"),
        "hf-dataset": Target(f"{_ROOM}.hf_dataset", "a data set with its card"),
    }
)


def export(folder: Path, target: str, output: Path) -> Written:
    """Write a results folder for another tool.

    Args:
        folder: a results folder.
        target: a name in ``TARGETS``.
        output: the folder to write to; created if it does not exist.

    Raises:
        UserError: if the target is unknown or its library is not installed, the folder holds no results, or the
            output is a results folder, has files that no export has written, or cannot be written.
    """
    if target not in TARGETS:
        raise UserError(f"export: {unknown('target', target, TARGETS)}")
    chosen = TARGETS[target]
    _check_installed(target, chosen.packages)
    inside = output.resolve()
    within = (each.name in _OWN and (each.parent / "trials").is_dir() for each in (inside, *inside.parents))
    if (inside / "trials").is_dir() or any(within):
        raise UserError(f"{output} is a results folder, or in one: choose another folder to export to")
    from peftbench.report.export.runs import gather

    results = gather(folder)
    try:
        output.mkdir(parents=True, exist_ok=True)
        made: Written = importlib.import_module(chosen.writer).write(results, output)
    except OSError as error:
        raise UserError(f"cannot export to {output}: {error.strerror or error}") from error
    return made


def refuse_to_replace(output: Path, names: Iterable[str], ours: bool) -> None:
    """Refuse files that no earlier export has written.

    Raises:
        UserError: if a file of one of these names is there, and ``ours`` is not true.
    """
    there = [name for name in names if (output / name).exists()]
    if there and not ours:
        raise UserError(f"{output / there[0]} exists and no earlier export wrote it: choose another folder with -o")


def _check_installed(target: str, packages: tuple[str, ...]) -> None:
    """Look for what a target needs.

    Raises:
        UserError: if something is not installed, with the command that installs it.
    """
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"export --to {target} needs {' and '.join(missing)}, which this environment lacks: "
            f"pip install 'peftbench[{target}]'"
        )
