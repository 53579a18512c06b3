"""What is known of the data before a suite describes it. No torch."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from peftbench.errors import UserError
from peftbench.records import Task
from peftbench.records.wording import abridged, plural
from peftbench.tasks import TASKS, files
from peftbench.tasks.formats import content
from peftbench.tasks.formats.records import Records
from peftbench.tasks.recognize import Asked, Recognized, recognize
from peftbench.tasks.survey import Column, columns, without_header

_GENERIC = ("train", "training", "train_data", "data", "dataset", "test", "all", "valid", "val", "dev")
_EXTRA_COLUMNS = 4
_READER = Task("data", "generation")
_SHOWN_CLASSES = 8
_SHOWN_TEXT = 60


@dataclass(frozen=True)
class Data:
    """The files, and what kind of task they are."""

    name: str
    """A name for the task."""
    train: Path
    test: Path | None
    columns: tuple[str, ...]
    """Names for the columns of files without a header; empty if they have one."""
    found: Recognized
    classes: Mapping[str, int]
    """Class -> training records; empty if the task has none."""
    words: Mapping[str, str]
    """Class -> its name, if the file says it (Parquet files of the datasets library)."""
    examples: Mapping[str, str]
    """Class -> the beginning of the first text of it."""
    records: int
    notes: tuple[str, ...]
    """What reading found."""


def look(train: Path, test: Path | None, chat: bool, asked: Asked) -> Data:
    """Return what kind of task some files are.

    Args:
        train: the training file.
        test: the test file, if there is one.
        chat: whether the base model has a chat template.
        asked: what the user has said.

    Raises:
        UserError: if a file is missing, empty or unreadable, or what cannot be guessed has to be said.
    """
    records, names = _read(train, asked)
    whole = columns(records.rows)
    found = _recognized(train, whole, chat, asked)
    _check_complete(train, records.rows, found)
    if content.kind(train) == ".txt" and found.kind == "language_modelling":
        records = files.read(replace(_READER, kind=found.kind), train)
    classes = dict(found.answer.counts) if found.answer and found.kind == "choice" else {}
    notes = list(records.notes)
    if test is not None:
        others = _read_test(test, names, found, whole)
        whole = _with_gaps(whole, columns(others))
        found = _recognized(train, whole, chat, asked)  # what the test file lacks, templates have to expect
        unseen = dict.fromkeys(_labels(others, found) if classes else ())
        unseen = {label: None for label in unseen if label not in classes}
        _check_spelling(test, found, classes, unseen)
        if unseen:
            listed = abridged([repr(label) for label in unseen], _SHOWN_CLASSES)
            notes.append(
                f"{len(unseen):,} class{'es' * (len(unseen) > 1)} only in the test file, never trained on: {listed}"
            )
        classes |= dict.fromkeys(unseen, 0)
    return Data(
        name=_name(train),
        train=train,
        test=test,
        columns=names,
        found=found,
        classes=classes,
        words=_class_names(train, found.answer),
        examples=_first_of_each(records.rows, found),
        records=len(records.rows),
        notes=(*notes, *_missing(whole, found)),
    )


def _recognized(path: Path, whole: Sequence[Column], chat: bool, asked: Asked) -> Recognized:
    try:
        return recognize(whole, chat, asked)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _read(path: Path, asked: Asked) -> tuple[Records, tuple[str, ...]]:
    """Return the records of a file, and names for its columns if it has no header."""
    try:
        records = files.read(_READER, path)
    except UserError as error:
        text = str(error).removeprefix(f"task {_READER.name!r}: ")
        raise UserError(text if str(path) in text else f"{path}: {text}") from None
    if content.kind(path) not in (".csv", ".tsv") or not without_header(records.rows):
        return records, ()
    width = len(records.rows[0])
    for size in range(width, width + _EXTRA_COLUMNS):
        names = tuple(f"column{number + 1}" for number in range(size))
        try:
            again = files.read(replace(_READER, columns=names), path)
        except UserError:
            continue
        named = _named(columns(again.rows), asked)
        rows = [dict(zip(named, row.values(), strict=True)) for row in again.rows]
        note = f"no header line; its columns are called {', '.join(named)}"
        return replace(again, rows=rows, notes=(*again.notes, note)), named
    raise UserError(f"{path}: its first line is no header, and its lines have different numbers of fields")


def _named(found: Sequence[Column], asked: Asked) -> tuple[str, ...]:
    """Return names for columns without any: ``label`` for what looks most like one, ``text`` for the longest text."""
    names = [column.name for column in found]
    if asked.inputs or asked.answer:
        return tuple(names)
    labels = sorted((c for c in found if c.repeats), key=lambda c: (not c.numeric, c.missing > 0, c.distinct))
    texts = sorted((c for c in found if c.is_text and c not in labels), key=lambda c: -c.characters)
    called = {labels[0].name: "label"} if labels else {}
    called |= {texts[0].name: "text"} if texts else {}
    return tuple(called.get(name, name) for name in names)


def _read_test(path: Path, names: tuple[str, ...], found: Recognized, whole: Sequence[Column]) -> Sequence[Any]:
    """Return the records of the test file.

    Raises:
        UserError: if it has other columns than the training file, or no labels.
    """
    reader = replace(_READER, columns=names)
    try:
        rows = files.read(reader, path).rows
    except UserError as error:
        text = str(error).removeprefix(f"task {_READER.name!r}: ")
        raise UserError(f"--test: {text}") from None
    given = columns(rows)
    used = found.answer.name if found.answer else None
    by_name = {column.name: column for column in given}
    leave = "leave --test out, and a part of the training file becomes the test"
    for name, what in ((used, "answers"), *((name, "inputs") for name in found.inputs)):
        if name and name not in by_name:
            raise UserError(
                f"--test {path}: there is no column {name!r}, which has the {what} in the training file; its columns "
                f"are {abridged([repr(column.name) for column in given], _SHOWN_CLASSES)}; {leave}"
            )
    if used and by_name[used].distinct <= 1 < next(c for c in whole if c.name == used).distinct:
        value = by_name[used].example if by_name[used].distinct else "missing"
        raise UserError(f"--test {path}: {used!r} is {value} in every record, so nothing can be scored; {leave}")
    if used and by_name[used].missing:
        raise UserError(
            f"--test {path}: {used!r} is missing or empty in {plural(by_name[used].missing, 'record')}, which nothing "
            f"can be scored against; remove them from the file, or {leave}"
        )
    if found.answer and found.answer.numeric and not by_name[found.answer.name].numeric:
        raise UserError(
            f"--test {path}: {used!r} holds numbers in the training file, but not here (such as "
            f"{by_name[found.answer.name].example}); write the same labels in both files, or {leave}"
        )
    return rows


def _labels(rows: Sequence[Mapping[str, Any]], found: Recognized) -> list[str]:
    return [str(row.get(found.answer.name)).strip() for row in rows] if found.answer else []


def _check_spelling(path: Path, found: Recognized, classes: Iterable[str], unseen: Iterable[str]) -> None:
    """Refuse labels of the test file that are those of the training file in another spelling, such as 0.0 for 0."""
    known = {_plain(label): label for label in classes}
    for label in unseen:
        same = known.get(_plain(label))
        if same is not None and found.answer is not None:
            raise UserError(
                f"--test {path}: {found.answer.name!r} is {label!r} here and {same!r} in the training file, which "
                "would be two classes; write the same labels in both files, or leave --test out, and a part of the "
                "training file becomes the test"
            )


def _plain(label: str) -> float | str:
    """Return a label without what differs in spelling only: a number as such, a text without its case."""
    try:
        return float(label)
    except ValueError:
        return label.casefold()


def _check_complete(path: Path, rows: Sequence[Mapping[str, Any]], found: Recognized) -> None:
    """Refuse training records without an answer, and without an input that a fixed template needs."""
    needed = [(found.answer.name, "the answers", "another column with --answer")] if found.answer else []
    if "template" in found.block:
        needed += [(name, "the inputs", "the columns with --input and --answer") for name in found.inputs]
    for name, what, instead in needed:
        lacking = [number for number, row in enumerate(rows, 1) if _empty(row.get(name))]
        if lacking:
            raise UserError(
                f"--train {path}: {name!r}, which has {what}, is missing or empty in {plural(len(lacking), 'record')} "
                f"(the first is record {lacking[0]:,}); remove them from the file, or name {instead}"
            )


def _empty(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _with_gaps(whole: Sequence[Column], test: Sequence[Column]) -> list[Column]:
    """Return the texts of the training file as lacking what those of the test file lack too."""
    missing = {column.name: column.missing for column in test if column.is_text and not column.repeats}
    return [replace(column, missing=column.missing + missing.get(column.name, 0)) for column in whole]


def _missing(whole: Sequence[Column], found: Recognized) -> list[str]:
    used = [column for column in whole if column.name in found.inputs and column.missing]
    return [
        f"{c.name!r} is missing or empty in {plural(c.missing, 'record')}; prompts there leave it out" for c in used
    ]


def _first_of_each(rows: Sequence[Mapping[str, Any]], found: Recognized) -> dict[str, str]:
    """Return the beginning of the first text of each class."""
    first: dict[str, str] = {}
    for row in rows if found.answer and found.inputs else ():
        words = " ".join(str(row.get(found.inputs[-1])).split())
        first.setdefault(str(row.get(found.answer.name)).strip(), words[:_SHOWN_TEXT])  # type: ignore[union-attr]
    return first


def _name(path: Path) -> str:
    """Return a name for a task: the file's, or its folder's if the file's says nothing."""
    stem = path.name.split(".")[0]
    if stem.lower() in _GENERIC:
        stem = path.resolve().parent.name
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", stem).strip("_-") or "data"
    return f"{name}_data" if name in TASKS else name


def _class_names(path: Path, answer: Column | None) -> dict[str, str]:
    """Return the names of classes that a Parquet file of the datasets library gives to the numbers in a column."""
    if answer is None or content.kind(path) != ".parquet":
        return {}
    import pyarrow.parquet

    try:
        kept = pyarrow.parquet.read_schema(path).metadata or {}
        feature = json.loads(kept[b"huggingface"])["info"]["features"][answer.name]
        names = feature["names"] if feature["_type"] == "ClassLabel" else []
    except (KeyError, ValueError, TypeError, OSError, pyarrow.ArrowException):
        return {}
    return {str(number): str(name) for number, name in enumerate(names)}
