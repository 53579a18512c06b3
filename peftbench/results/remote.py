"""Results folders at a URL: read through a copy on this machine, written by sending each file that a run has changed.

Any filesystem of fsspec will do (``s3://bucket/folder``, ``gs://``, ``sftp://``). The copy is in the user's cache; one
for reading, one for running, so that a report does not disturb a run. A run's copy keeps what could not be sent.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from peftbench.errors import UserError, nearest, unknown
from peftbench.results import cache, remote_names

_URL = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]+)://")
_ALMOST = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]+):/(?!/)")
"""What a URL becomes by a typing error, or as a ``Path``."""
_STORED = re.compile(r"(search/)?((trials|steps|examples)/[^/.][^/]*\.parquet|grid\.json)")
"""The files of a results folder that commands read."""
_LOGS, _SEARCH_LOGS, _ADAPTERS = "logs", "search/logs", "adapters"
"""Folders of files that are sent and that no command reads at a URL."""
_STATE = ".remote.json"
"""In a copy: each file's size and time of change here, and its version there (null if the filesystem tells none), when
both were last the same."""
_CHECK = ".peftbench-write-check"
_BUCKETS = frozenset(
    {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oss", "oci", "ocilake", "tos", "r2", "hf"}
)
"""Schemes of object stores, which have no folders."""
_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs"}
"""Scheme to the extra of peftbench that installs what it needs."""
_VERSIONS = (
    *("ETag", "etag", "md5Hash", "mtime", "LastModified", "updated", "modified", "modify", "last_write_time"),
    *("content_md5", "last_modified", "created"),
)
_ATTEMPTS = 3
"""How often a folder is listed again because files of the list have gone, as another run has merged them."""
Listed = Mapping[str, Mapping[str, Any]]
"""Files by their path in a folder there, with what its filesystem tells of each."""


@dataclass(frozen=True)
class Remote:
    """A results folder at a URL and its copy on this machine."""

    shown: str
    """The URL without user, password and query."""
    system: Any
    """The fsspec filesystem."""
    root: str
    folder: Path
    """The copy."""
    url: str = field(repr=False)
    """As it was given, possibly with a password."""
    use: str
    """``read`` or ``run``: what the copy is for. A copy for reading has nothing that is not there."""


def is_url(given: object) -> bool:
    """Return whether a results folder is named by a URL."""
    return isinstance(given, str) and _URL.match(given) is not None


def named(given: str | os.PathLike[str] | None) -> Path | str | None:
    """Return where a run's results go: a URL as text, a folder as path, None for the default.

    Raises:
        UserError: if a URL lacks a slash, so that it would be a folder of that name here.
    """
    if given is None or is_url(given):
        return given if given is None else str(given)
    text = os.fspath(given)
    if found := _ALMOST.match(text):
        shown = remote_names.without_secrets(f"{found[1]}://{text[found.end() :]}")
        raise UserError(f"results '{shown.replace('//', '/', 1)}': did you mean '{shown}'? A URL has two slashes")
    return Path(text)


def copy_of(url: str, use: str) -> Path:
    """Return the folder that holds a URL's copy, whether it exists or not.

    Args:
        url: the URL.
        use: ``read`` or ``run``.
    """
    name = remote_names.split(url).place.rstrip("/").rpartition("/")[2]
    name = re.sub(r"[^\w.-]", "_", name) or "results"
    digest = hashlib.sha256(url.rstrip("/").encode()).hexdigest()[:16]
    return cache.folder() / "results" / use / digest / name


def fetched(url: str) -> Path:
    """Return a copy of the results folder at a URL that is up to date, for reading.

    Raises:
        UserError: if the URL cannot be reached or holds no results.
    """
    return _fetched(_opened(url, "read"))


def _fetched(remote: Remote, listed: Listed | None = None) -> Path:
    pull(remote, listed=listed)
    if not any((remote.folder / "trials").glob("*.parquet")):
        raise UserError(
            f"{remote.shown}: there is no such bucket or folder, or it holds no results (a results folder has a folder "
            "'trials')"
        )
    return remote.folder


def nights(url: str) -> list[Path]:
    """Return up-to-date copies of the results folders at a URL: of itself, or of each folder in it that is one.

    Raises:
        UserError: if the URL cannot be reached or holds no results.
    """
    remote = _opened(url, "read")
    with _told(remote, "read"):
        listed = _listed(remote)
    parts = [name.split("/") for name in listed]
    within = sorted({each[0] for each in parts if len(each) == 3 and each[1] == "trials"})
    if not within or any(len(each) == 2 and each[0] == "trials" for each in parts):
        return [_fetched(remote, listed)]
    by_night: dict[str, dict[str, Mapping[str, Any]]] = {}
    for name, info in listed.items():
        night, _, inside = name.partition("/")
        by_night.setdefault(night, {})[inside] = info
    return [
        _fetched(_opened(remote_names.inside(url, night, remote.root), "read"), by_night[night]) for night in within
    ]


def working(url: str, adapters: bool = False) -> Remote:
    """Return the results folder at a URL for a run, its copy up to date.

    Args:
        url: the URL.
        adapters: whether to fetch kept adapters too. A run that keeps adapters runs a trial again that has none.

    Raises:
        UserError: if it cannot be read or written.
    """
    remote = _opened(url, "run")
    with _told(remote, "written"):
        _make_parent(remote, _CHECK)
        remote.system.pipe_file(f"{remote.root}/{_CHECK}", b"")
        remote.system.rm_file(f"{remote.root}/{_CHECK}")
    pull(remote, adapters)
    return remote


def pull(remote: Remote, adapters: bool = False, listed: Listed | None = None) -> None:
    """Bring a copy up to date: fetch what is new there, delete what is gone there, keep what is only here.

    Args:
        remote: the results folder.
        adapters: whether to fetch kept adapters too. Those here are not deleted.
        listed: the files there, if they have just been listed.

    Raises:
        UserError: if it cannot be read.
    """
    from peftbench.results.store import files

    folders = [_ADAPTERS] if adapters else []
    with files.locked(remote.folder), _told(remote, "read"):
        for attempt in range(_ATTEMPTS):
            state = _state(remote)
            try:
                _pull(remote, state, folders, _listed(remote) if attempt or listed is None else listed)
                break
            except FileNotFoundError:
                if attempt == _ATTEMPTS - 1:
                    raise
            finally:
                _keep(remote, state)


def _pull(remote: Remote, state: dict[str, list[Any]], folders: Collection[str], found: Listed) -> None:
    there, reads = {n: _version(info) for n, info in found.items() if _counts(n, folders)}, remote.use == "read"
    for name in [name for name in state if name not in there and _counts(name, folders)]:
        if state.pop(name)[0] == _here(remote, name):
            (remote.folder / name).unlink(missing_ok=True)
    for name in _written(remote, set()) - there.keys() if reads else ():
        (remote.folder / name).unlink(missing_ok=True)
    for name in sorted(there, key=_last_trials):
        here, known = _here(remote, name), state.get(name)
        same = known == [here, there[name]] and there[name] is not None
        if here is not None and (same or (not reads and (known is None or known[0] != here))):
            continue  # it has not changed there, or the one of a run has not been sent yet
        target = remote.folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{os.getpid()}-{target.name}.tmp")
        remote.system.get_file(f"{remote.root}/{name}", str(temporary))
        os.replace(temporary, target)
        state[name] = [_here(remote, name), there[name]]


def push(remote: Remote, keys: set[str]) -> int:
    """Send the files that have changed here, then delete those that are gone here; return how many were sent.

    A trial's row comes after its steps and examples, and what was merged is deleted after what it was merged into, as
    when the folder itself is written.

    Args:
        remote: the results folder.
        keys: trials that have ended in this run, whose logs and adapters are sent too.

    Raises:
        UserError: if it cannot be written. What was sent before stays there.
    """
    from peftbench.results.store import files

    sent = 0
    with files.locked(remote.folder), _told(remote, "written"):
        state = _state(remote)
        try:
            names = _written(remote, keys)
            for name in sorted(names, key=_last_trials):
                here = _here(remote, name)
                if name in state and state[name][0] == here:
                    continue
                _make_parent(remote, name)
                remote.system.put_file(str(remote.folder / name), f"{remote.root}/{name}")
                remote.system.invalidate_cache()
                state[name] = [here, _version(remote.system.info(f"{remote.root}/{name}"))]
                sent += 1
            gone = [name for name in state if name not in names and _here(remote, name) is None]
            remote.system.invalidate_cache()
            for name in sorted(gone, key=_last_trials, reverse=True):
                path = f"{remote.root}/{name}"  # another run may have stored a result of its own under this name
                if remote.system.exists(path) and _version(remote.system.info(path)) == state[name][1]:
                    remote.system.rm_file(path)
                del state[name]
        finally:
            _keep(remote, state)
    return sent


def _make_parent(remote: Remote, name: str) -> None:
    """Make the folder that a file there is in. Buckets have none, and making one would make a bucket."""
    parent = f"{remote.root}/{name}".rpartition("/")[0]
    if not _BUCKETS.intersection(_protocols(remote.system)):
        remote.system.makedirs(parent, exist_ok=True)


def _protocols(system: Any) -> tuple[str, ...]:
    return (system.protocol,) if isinstance(system.protocol, str) else tuple(system.protocol)


def _last_trials(name: str) -> tuple[bool, bool, str]:
    """Sort files so that rows come after what belongs to them, and the grid last."""
    return name.endswith("grid.json"), "trials/" in name, name


def _opened(url: str, use: str) -> Remote:
    import fsspec

    shown = remote_names.without_secrets(url)
    scheme, _, rest = url.partition("://")
    scheme = scheme.lower()
    try:
        system, root = fsspec.core.url_to_fs(f"{scheme}://{rest}")
    except ImportError as error:
        extra = _EXTRAS.get(scheme)
        hint = f"pip install 'peftbench[{extra}]'" if extra else str(error)
        raise UserError(f"{shown} needs a library that this environment lacks: {hint}") from None
    except ValueError as error:
        known = fsspec.available_protocols()
        if scheme not in known:
            near = nearest(scheme, known)
            hint = f"; did you mean {near}://?" if near else f": {unknown('scheme', scheme, known)}"
            raise UserError(f"{shown}: no filesystem is known for {scheme}://{hint}") from None
        raise UserError(f"{shown} cannot be used: {remote_names.reason(error, url)}") from None
    except Exception as error:  # a filesystem may connect when it is made, and has exceptions of its own
        raise UserError(f"{shown} cannot be used: {remote_names.reason(error, url)}") from None
    folder = copy_of(url, use)
    remote_names.note(folder, shown)
    return Remote(shown, system, root.rstrip("/"), folder, url, use)


@contextmanager
def _told(remote: Remote, what: str) -> Iterator[None]:
    """Turn what a filesystem raises into a message. Each has exceptions of its own, so all are caught."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{remote.shown} cannot be {what}: {remote_names.reason(error, remote.url)}") from None


def _listed(remote: Remote) -> Listed:
    """Return the files there; none if there is no such folder."""
    remote.system.invalidate_cache()
    found: Listed = remote.system.find(remote.root, detail=True)
    return {path.removeprefix(remote.root).strip("/"): info for path, info in found.items()}


def _counts(name: str, folders: Collection[str]) -> bool:
    """Return whether a file is one of the datasets or in one of these folders."""
    if any(part in ("", "..") or part.startswith(".") for part in name.split("/")):
        return False
    return bool(_STORED.fullmatch(name)) or any(name.startswith(f"{folder}/") for folder in folders)


def _version(info: Mapping[str, Any]) -> str | None:
    """Return what tells a file from one of another time; None if its filesystem tells no more than the size."""
    told = next((info[name] for name in _VERSIONS if info.get(name)), None)
    at = told.timestamp() if isinstance(told, datetime) else told  # one filesystem lists it as a number
    return None if at is None else f"{info.get('size')} {at}"


def _written(remote: Remote, keys: set[str]) -> set[str]:
    """Return the files here that belong there."""
    paths = [path for part in ("", "search") for path in (remote.folder / part).glob("*/*.parquet")]
    paths += [remote.folder / "grid.json", remote.folder / "search" / "grid.json"]
    for key in keys:
        paths += [remote.folder / logs / f"{key}.log" for logs in (_LOGS, _SEARCH_LOGS)]
        paths += (remote.folder / _ADAPTERS / key).rglob("*")
    names = {path.relative_to(remote.folder).as_posix() for path in paths if path.is_file()}
    return {name for name in names if _counts(name, (_LOGS, _SEARCH_LOGS, _ADAPTERS))}


def _here(remote: Remote, name: str) -> list[int] | None:
    try:
        found = os.stat(remote.folder / name)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return [found.st_size, found.st_mtime_ns]


def _state(remote: Remote) -> dict[str, list[Any]]:
    try:
        return dict(json.loads((remote.folder / _STATE).read_bytes()))
    except (FileNotFoundError, ValueError):
        return {}


def _keep(remote: Remote, state: dict[str, list[Any]]) -> None:
    cache.keep(remote.folder / _STATE, json.dumps(state))
