"""The anatomy of the base models of a report, where the files that were measured are still there.

The rows of results do not have it. It is read from a base model's files if they have the hash of the rows: a built-in
one, a shape, a folder that the recorded command or its suite names, or the hub's cache.
"""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from peftbench.errors import Unsupported
from peftbench.models import find, here, tokenizer_file
from peftbench.models.anatomy import child
from peftbench.records import Base, failures
from peftbench.report.collect import Results, read_json
from peftbench.report.derived import commands
from peftbench.results import cache

MOST_BYTES = 4 << 30
"""Larger files are not read to learn whether they are the ones that were measured."""
_MOST_EXAMPLES = 1000
"""Examples of a task whose tokens are counted."""
_KNOWN: dict[tuple[Path, str], Mapping[str, Any] | str] = {}
"""What was read in this process, by folder and hash."""


@dataclass(frozen=True)
class BaseAnatomy:
    """The anatomy of one base model of a report."""

    base: str
    found: Mapping[str, Any] | None
    """The fields of ``models.anatomy.record.Anatomy`` as JSON values; None if they are not known."""
    reason: str
    """Why not; empty if they are known."""
    overall: float | None = None
    """Tokens per word of all tasks together; None if not known."""
    by_task: Mapping[str, float] = field(default_factory=dict)
    """Tokens per word of each task's scored examples."""


@dataclass(frozen=True)
class Started:
    """Readings that work while the rest of a page is made."""

    results: Results
    each: tuple[tuple[str, Path | None, str, child.Reading | str], ...]
    """Of each base model: name, folder, hash, and the reading or why there is none (empty: known already)."""

    def finish(self) -> list[BaseAnatomy]:
        """Return the anatomies, in the order of the base models' names."""
        return [self._one(*one) for one in self.each]

    def stop(self) -> None:
        """End readings that nobody will ask for."""
        for *_, reading in self.each:
            if isinstance(reading, child.Reading):
                reading.stop()

    def _one(self, base: str, folder: Path | None, digest: str, reading: child.Reading | str) -> BaseAnatomy:
        if folder is None:
            return BaseAnatomy(base, None, str(reading))
        if isinstance(reading, child.Reading):
            _KNOWN[folder, digest] = reading.result()
        found: Mapping[str, Any] | str = _KNOWN.get((folder, digest), str(reading))
        if isinstance(found, str):
            return BaseAnatomy(base, None, f"it could not be read: {failures.without_paths(found)}")
        words = _words(self.results, base, folder)
        counts = [sum(each) for each in zip(*words.values(), strict=True)]
        overall = counts[0] / counts[1] if counts and counts[1] else None
        return BaseAnatomy(base, found, "", overall, {task: t / w for task, (t, w) in words.items() if w})


def start(results: Results) -> Started:
    """Start to read the anatomies of the base models of a report."""
    return Started(results, tuple(_start(results, *one) for one in _bases(results)))


def _bases(results: Results) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Yield each base model of the rows: its name, the hash of its files, its settings."""
    rows = results.trials.drop_duplicates(["base", "base_sha256"]).sort_values("base", kind="stable")
    for name, digest, text in zip(rows["base"], rows["base_sha256"], rows["settings_json"], strict=True):
        settings = read_json(text).get("base")
        yield str(name), digest if isinstance(digest, str) else "", settings if isinstance(settings, dict) else {}


def _start(
    results: Results, name: str, digest: str, settings: Mapping[str, Any]
) -> tuple[str, Path | None, str, child.Reading | str]:
    folder, why = _folder(results, name, digest, settings)
    if folder is None:
        return name, None, digest, why
    return name, folder, digest, "" if (folder, digest) in _KNOWN else child.start(folder)


def _folder(results: Results, name: str, digest: str, settings: Mapping[str, Any]) -> tuple[Path | None, str]:
    """Return the folder with the files that were measured; without one, the reason."""
    if not digest:
        return None, "the rows do not say which files were measured"
    if settings.get("trust_remote_code"):
        return None, "it comes with code of its own, which is not run to make a page"
    shown = "`peftbench list base FOLDER` prints it where its files are"
    other = False
    for folder in _candidates(results, name, settings):
        if _size(folder) > MOST_BYTES:
            return None, (
                f"its files are too large to make sure for a page that they are the measured ones; "
                f"`peftbench list base {_named(name, folder)}` prints it"
            )
        with suppress(OSError):
            if _hash(folder, _stamp(folder)) == digest:
                return folder.resolve(), ""
            other = True
    if other:
        return None, f"the files of {name} that are here are not the measured ones (their hash differs); {shown}"
    return None, f"its files are not on this machine, or where they are is not recorded; {shown}"


def _named(name: str, folder: Path) -> str:
    """Return a base model as a word of a command: of the hub's cache its id, else its folder as seen from here."""
    return shlex.quote(name if folder.parent.name == "snapshots" else commands.place(folder))


def _candidates(results: Results, name: str, settings: Mapping[str, Any]) -> Iterator[Path]:
    """Yield the folders where the files of a base model may be."""
    source = Base(name, random_weights=bool(settings.get("random_weights")), revision=settings.get("revision"))
    named = [find.local_folder(source), *map(Path, _paths(results, name))]
    cached = None
    if "/" in name or not any(map(find.is_folder, named)):
        with suppress(Exception):  # no hub id
            cached = here.folder(source)
    for folder in dict.fromkeys([*named, *([cached] if cached else [])]):
        if find.is_folder(folder) and (folder / "config.json").is_file():
            yield folder


def _paths(results: Results, name: str) -> Iterator[str]:
    """Yield the paths that end with a name in the recorded commands and in the suites that they name."""
    start, end = r"(?:^|[\s'\"=:{\[,])", r"(?=$|[\s'\"}\],])"
    ends = re.compile(rf"{start}((?:[^\s'\"=:{{\[,]*/)?{re.escape(name)})/?{end}", re.MULTILINE)
    commands = [results.grid.command] if results.grid else []
    commands += [str(read_json(text).get("command") or "") for text in results.trials["environment_json"].unique()]
    for command in dict.fromkeys(commands):
        yield from ends.findall(command)
        with suppress(ValueError, OSError):
            for word in shlex.split(command):
                if word.endswith((".yaml", ".yml")) and Path(word).is_file():
                    for found in ends.findall(Path(word).read_text(encoding="utf-8", errors="replace")):
                        yield found
                        yield str(Path(word).parent / found)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir() if path.is_file())


def _stamp(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """Return what changes if a file of a folder does."""
    each = ((path.name, path.stat()) for path in sorted(folder.iterdir()) if path.is_file())
    return tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in each)


def _hash(folder: Path, stamp: tuple[tuple[str, int, int], ...]) -> str:
    """Return the hash of a base model's files, which is kept on this machine for as long as no file changes."""
    name = hashlib.sha256(repr((str(folder.resolve()), stamp)).encode()).hexdigest()
    kept = cache.folder() / "bases" / name
    with suppress(OSError, UnicodeDecodeError):
        if re.fullmatch("[0-9a-f]{64}", text := kept.read_text(encoding="utf-8")):
            return text
    found = find.base_fingerprint(folder)
    with suppress(OSError):  # it is then computed again
        cache.keep(kept, found)
    return found


def _words(results: Results, base: str, folder: Path) -> dict[str, tuple[int, int]]:
    """Return tokens and words of the scored examples of each task, as a trial of this base model read them."""
    if not len(results.examples):
        return {}
    try:
        encode = tokenizer_file.read(folder)
    except Unsupported:
        return {}
    keys = set(results.trials.loc[results.trials["base"] == base, "key"])
    own = results.examples[results.examples["key"].isin(keys)]
    found = {}
    for task in results.tasks:
        rows = own[own["task"] == task]
        rows = rows[rows["key"] == rows["key"].iloc[0]].head(_MOST_EXAMPLES) if len(rows) else rows
        texts = [str(text) for text in [*rows["prompt"], *rows["target"]] if isinstance(text, str)]
        ids = encode(texts, add_special_tokens=False)["input_ids"] if texts else []
        found[task] = (sum(map(len, ids)), sum(len(text.split()) for text in texts))
    return {task: counts for task, counts in found.items() if counts[1]}
