"""General text from a file: what retention is measured on. No torch."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from peftbench.errors import UserError
from peftbench.records import Retention, Task
from peftbench.tasks import read

RECORDS = (".csv", ".tsv", ".json", ".jsonl", ".parquet")
"""Types of files that hold records; every other one is plain text."""
_NAME = "evaluate.retention"


def texts(source: Retention) -> list[str]:
    """Return the texts of a file or a dataset in its order, empty ones left out, without white space around them.

    Raises:
        UserError: if it is missing, unreadable or holds no text, or its records do not have the field.
    """
    path = Path(source.file or "")
    if source.dataset or path.suffix in RECORDS:
        found = [e.target for e in read.examples(as_task(source), "test")]
    else:
        try:
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", None) or error
            raise UserError(f"{_NAME}: {source.source} cannot be read as text: {why}") from None
        # a line that looks empty is
        found = re.split(r"\n[^\S\n]*\n", text) if source.separator == "\n\n" else text.split(source.separator)
    kept = [text.strip() for text in found if text.strip()][: source.limit]
    if not kept:
        raise UserError(f"{_NAME}: {source.source} holds no text")
    return kept


def as_task(source: Retention) -> Task:
    """Return general text in records as a task whose answers are the texts."""
    field = f"{{{{ '' if {source.field} is none else {source.field} }}}}"  # a null is no text
    made = Task(_NAME, "generation", prompt=field, target=field)
    if source.file:
        return replace(made, files={"test": source.file})
    return replace(
        made,
        dataset=source.dataset,
        config=source.config,
        revision=source.revision,
        splits={"test": source.split},
    )
