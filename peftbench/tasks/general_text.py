"""Read the general text on which retention is measured. No torch."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from peftbench.errors import UserError
from peftbench.records import Retention, Task
from peftbench.tasks import encodable
from peftbench.tasks.files import KINDS, read_text
from peftbench.tasks.formats.content import kind
from peftbench.tasks.read import reading
from peftbench.tasks.splits import drawn
from peftbench.tasks.values import WHOLE

RECORDS = tuple(suffix for suffix in KINDS if suffix != ".txt")
"""Suffixes of files with records; any other file is plain text."""

_NAME = "evaluate.retention"


@dataclass(frozen=True)
class GeneralText:
    """The texts of a source."""

    texts: tuple[str, ...]
    notes: tuple[str, ...]
    """What reading found, as sentences."""

    @cached_property
    def sha256(self) -> str:
        """The hash of the texts, wherever they are from."""
        return hashlib.sha256(json.dumps(self.texts, ensure_ascii=False).encode()).hexdigest()


def texts(source: Retention) -> list[str]:
    """Return the texts that a limit keeps, see ``read``."""
    return list(read(source).texts)


def read(source: Retention) -> GeneralText:
    """Return the non-empty texts of a file or a dataset in order, stripped of surrounding white space.

    ``limit`` is a seeded draw, so that the texts come from all parts of the source.

    Raises:
        UserError: if the source is missing, unreadable or has no text, if its records lack the field, or if a text
            cannot be encoded.
    """
    path = Path(source.file or "")
    notes: tuple[str, ...] = ()
    if source.dataset or kind(path) in RECORDS:
        found = reading(as_task(source), "test")
        pieces = [e.target for e in found.examples]
        said = [note.removeprefix(f"task {_NAME!r}: ") for note in found.notes if " is empty in " not in note]
        notes = tuple(f"{_NAME}: {note}" for note in said)
    else:
        try:
            text, notes = read_text(path, source.encoding)
        except UserError as error:
            raise UserError(f"{_NAME}: {error}") from None
        except (OSError, EOFError, ValueError) as error:
            why = getattr(error, "strerror", None) or error
            raise UserError(f"{_NAME}: {source.source} cannot be read as text: {why}") from None
        notes = tuple(f"{_NAME}: {path.name}: {note}" for note in notes)
        # a line of white space counts as blank
        pieces = re.split(r"\n[^\S\n]*\n", text) if source.separator == "\n\n" else text.split(source.separator)
    kept = [text.strip() for text in pieces if text.strip()]
    if not kept:
        raise UserError(f"{_NAME}: {source.source} holds no text")
    for index, text in enumerate(kept, 1):
        problem = encodable.problem(text)
        if problem:
            raise UserError(f"{_NAME}: {source.source}, text {index}: {problem}")
    return GeneralText(tuple(drawn(kept, source.limit)), notes)


def as_task(source: Retention) -> Task:
    """Return a task whose targets are the texts in the records of a source; null is an empty text."""
    target = f"{{{{ {WHOLE}[{json.dumps(source.field, ensure_ascii=False)}] | default('') }}}}"
    # the field must exist: default() would hide that it does not
    exists = f"{{% if {WHOLE}[{json.dumps(source.field, ensure_ascii=False)}] %}}{{% endif %}}"
    made = Task(_NAME, "generation", prompt=exists, target=target)
    made = replace(made, encoding=source.encoding, delimiter=source.delimiter, quoting=source.quoting)
    if source.file:
        return replace(made, files={"test": source.file})
    return replace(
        made,
        dataset=source.dataset,
        config=source.config,
        revision=source.revision,
        splits={"test": source.split},
    )
