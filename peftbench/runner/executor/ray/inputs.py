"""Base models and data on the nodes of a cluster: named by content, found there, else sent through Ray.

A path means nothing on another machine, so what a trial reads is named by its SHA-256. A node takes what has that
content: the file or folder at the same path, the hub's cache, or what was sent to it before.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from peftbench.errors import UserError
from peftbench.measure import machine
from peftbench.models import builtin, files, find
from peftbench.records import Base, Job, Task, Trial
from peftbench.results import cache as kept

SENT_BYTES = 2 * 2**30
"""Largest base model, and largest file or folder of data, that is sent to a node which does not have it, in bytes."""
Load = Callable[[Any], bytes]
"""Fetches a file's content, which Ray holds."""


@dataclass(frozen=True)
class Source:
    """A file or folder that a trial reads, by its content."""

    path: str
    """Where the command found it, absolute."""
    sha256: str
    kind: str
    """``base`` or ``data``."""
    sendable: bool = True
    """Whether it is complete in itself."""
    is_folder: bool = True


@dataclass(frozen=True)
class Named:
    """What a job reads, by content."""

    base: Source
    base_is_folder: bool
    """Whether the suite names the base model by a folder, rather than by a built-in name or a hub id."""
    data: Mapping[str, Source]
    """Files and folders of data by the path in the suite."""


class Missing(Exception):
    """A node does not have an input. ``source`` says which."""

    def __init__(self, source: Source) -> None:
        super().__init__(source.path)
        self.source = source


def named(job: Job) -> Named:
    """Return a job's inputs by content, as this machine has them."""
    base = job.trial.base
    by_folder = not base.random_weights and base.source not in builtin.BASES and not find.on_hub(base)
    by_folder |= base.random_weights and base.source not in builtin.SHAPES
    folder = str(Path(job.base_folder).absolute())
    return Named(Source(folder, job.base_sha256, "base"), by_folder, dict(_named_data(job.trial)))


def _named_data(trial: Trial) -> Iterator[tuple[str, Source]]:
    for given, whole in _paths(trial):
        path = Path(given).expanduser().absolute()
        yield given, Source(str(path), content(str(path)), "data", whole, path.is_dir())


def _paths(trial: Trial) -> Iterator[tuple[str, bool]]:
    """Yield the files and folders of data that a trial names, and whether each is complete in itself."""
    for task in trial.tasks:
        yield from ((path, True) for path in task.files.values())
        if task.lm_eval and Path(task.lm_eval).is_file():  # it may include files beside it
            yield task.lm_eval, False
        if task.dataset and find.is_folder(Path(task.dataset)):
            yield task.dataset, True
    if trial.retention:
        if trial.retention.file:
            yield trial.retention.file, True
        if trial.retention.dataset and find.is_folder(Path(trial.retention.dataset)):
            yield trial.retention.dataset, True


@cache
def content(path: str) -> str:
    """Return the SHA-256 of a file, or of a folder's files with their names."""
    digest = hashlib.sha256()
    for name, file in _files(Path(path)):
        with file.open("rb") as opened:
            digest.update(f"{name} {hashlib.file_digest(opened, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()


def _files(path: Path) -> list[tuple[str, Path]]:
    """Return the files at a path with their names relative to it; of a single file, its own name."""
    if path.is_dir():
        return sorted((p.relative_to(path).as_posix(), p) for p in path.rglob("*") if p.is_file())
    return [(path.name, path)]


@cache
def fingerprint(folder: str) -> str | None:
    """Return the hash of a base model's folder; None if it cannot be read."""
    with suppress(OSError, UserError):
        return files.fingerprint(Path(folder)) if Path(folder).is_dir() else None
    return None


def packed(source: Source) -> list[tuple[str, Path]]:
    """Return the files to send of an input, with their names relative to it.

    Raises:
        UserError: if it is too large, or not complete in itself.
    """
    path = Path(source.path)
    if not source.sendable:
        raise UserError(
            f"{path} is not sent to other machines, as it may include files beside it: put it at the same path on each"
        )
    found = sorted(files.determining(path).items()) if source.kind == "base" else _files(path)
    size = sum(file.stat().st_size for _, file in found)
    if size > SENT_BYTES:
        raise UserError(
            f"{path} has {size / 2**30:.1f} GiB, and at most {SENT_BYTES / 2**30:g} GiB are sent to other machines: "
            "put it at the same path on each" + ", or name the base model by its hub id" * (source.kind == "base")
        )
    return found


def located(job: Job, wanted: Named, sent: Mapping[str, Any], load: Load) -> Job:
    """Return the job with the paths that its inputs have on this node.

    Args:
        job: the job of another machine.
        wanted: its inputs by content.
        sent: what was sent, by its content: the names of files and how to load each.
        load: loads one.

    Raises:
        Missing: if one is neither here nor sent.
    """
    folder = _base(job.trial.base, wanted, sent, load)
    data = {given: str(_data(source, sent, load)) for given, source in wanted.data.items()}
    base = replace(job.trial.base, source=str(folder)) if wanted.base_is_folder else job.trial.base
    tasks = tuple(_with_paths(task, data) for task in job.trial.tasks)
    retention = job.trial.retention
    if retention:
        file, dataset = retention.file, retention.dataset
        retention = replace(retention, file=_at(file, data), dataset=_at(dataset, data))
    return replace(job, trial=replace(job.trial, base=base, tasks=tasks, retention=retention), base_folder=str(folder))


def _with_paths(task: Task, data: Mapping[str, str]) -> Task:
    placed = {split: data.get(path, path) for split, path in task.files.items()}
    return replace(task, files=placed, dataset=_at(task.dataset, data), lm_eval=_at(task.lm_eval, data))


def _at(given: str | None, data: Mapping[str, str]) -> str | None:
    return given if given is None else data.get(given, given)


def _base(base: Base, wanted: Named, sent: Mapping[str, Any], load: Load) -> Path:
    """Return the folder here with the wanted base model."""
    here = Path(wanted.base.path)
    if _is(wanted.base, here):
        return here
    if not wanted.base_is_folder:
        with suppress(UserError):
            found = find.resolve_base(base)
            if _is(wanted.base, found):
                return found
    return _unpacked(wanted.base, sent, load)


def _data(source: Source, sent: Mapping[str, Any], load: Load) -> Path:
    """Return the path here of wanted data."""
    here = Path(source.path)
    return here if _is(source, here) else _unpacked(source, sent, load)


def _is(source: Source, path: Path) -> bool:
    """Return whether a path has the content of an input."""
    if source.kind == "base":
        return fingerprint(str(path)) == source.sha256
    with suppress(OSError):
        return path.exists() and content(str(path)) == source.sha256
    return False


def _unpacked(source: Source, sent: Mapping[str, Any], load: Load) -> Path:
    """Return the path with what was sent of an input, now or before."""
    name = Path(source.path).name
    place = kept.folder() / "ray" / source.kind / source.sha256 / name
    path = place if source.is_folder else place / name
    if _is(source, path):
        return path
    if source.sha256 not in sent:
        raise Missing(source)
    made = place.with_name(f".{machine.process_name()}-{name}")
    shutil.rmtree(made, ignore_errors=True)
    for inside, reference in sent[source.sha256]:
        (made / inside).parent.mkdir(parents=True, exist_ok=True)
        (made / inside).write_bytes(load(reference))
    with _locked(place.parent):
        if not _read_anew(source, path):  # else another worker of this node was faster
            shutil.rmtree(place, ignore_errors=True)  # damaged
            with suppress(OSError):
                made.rename(place)
    shutil.rmtree(made, ignore_errors=True)
    if not _read_anew(source, path):
        raise Missing(source)
    return path


def _read_anew(source: Source, path: Path) -> bool:
    fingerprint.cache_clear()
    content.cache_clear()
    return _is(source, path)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Let one process of this node at a time change a folder."""
    with (folder / ".lock").open("wb") as file:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
