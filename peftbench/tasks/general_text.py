"""Read the general text on which retention is measured. No torch."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from peftbench.errors import UserError
from peftbench.records import Retention, Task
from peftbench.tasks import read

RECORDS = (".csv", ".tsv", ".json", ".jsonl", ".parquet")
"""Suffixes of files with records; any other file is plain text."""
_NAME = "evaluate.retention"


def texts(source: Retention) -> list[str]:
    """Return the non-empty texts of a file or a dataset in order, stripped of surrounding white space.

    Raises:
        UserError: if the source is missing, unreadable or has no text, or its records lack the field.
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
        # a line of white space counts as blank
        found = re.split(r"\n[^\S\n]*\n", text) if source.separator == "\n\n" else text.split(source.separator)
    kept = [text.strip() for text in found if text.strip()][: source.limit]
    if not kept:
        raise UserError(f"{_NAME}: {source.source} holds no text")
    return kept


def as_task(source: Retention) -> Task:
    """Return a task whose targets are the texts in the records of a source."""
    field = f"{{{{ '' if {source.field} is none else {source.field} }}}}"  # null is excluded
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
