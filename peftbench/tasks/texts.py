"""General text from a file: what retention is measured on. No torch."""

from __future__ import annotations

import re
from pathlib import Path

from peftbench.errors import UserError
from peftbench.records import Task
from peftbench.retention_columns import Retention
from peftbench.tasks import read

RECORDS = (".csv", ".tsv", ".json", ".jsonl", ".parquet")
"""Types of files that hold records; every other one is plain text."""
_NAME = "evaluate.retention"


def texts(source: Retention) -> list[str]:
    """Return the texts of a file in its order, empty ones left out, without white space around them.

    Raises:
        UserError: if the file is missing, unreadable or holds no text, or its records do not have the field.
    """
    path = Path(source.file)
    if path.suffix in RECORDS:
        field = f"{{{{ {source.field} }}}}"
        task = Task(_NAME, "generation", files={"test": source.file}, prompt=field, target=field)
        found = [e.target for e in read.examples(task, "test") if e.target != "None"]  # how a null is written
    else:
        try:
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", None) or error
            raise UserError(f"{_NAME}: {source.file} cannot be read as text: {why}") from None
        # a line that looks empty is
        found = re.split(r"\n[^\S\n]*\n", text) if source.separator == "\n\n" else text.split(source.separator)
    kept = [text.strip() for text in found if text.strip()][: source.limit]
    if not kept:
        raise UserError(f"{_NAME}: {source.file} holds no text")
    return kept
