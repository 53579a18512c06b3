"""Retention: where its held-out general text comes from, and the columns of ``trials`` that tell what was forgotten."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated


@dataclass(frozen=True)
class Retention:
    """General text on which a trial's loss is measured before and after training; not part of the key."""

    file: str | None = None
    """Plain text, or CSV, TSV, JSON, JSONL or Parquet. One of file and dataset is given."""
    field: str = "text"
    """Of records: the field that holds the text."""
    separator: str = "\n\n"
    """Of a file of plain text: what parts two texts."""
    limit: int | None = 200
    """Only the first so many texts; None for all."""
    dataset: str | None = None
    """Hugging Face dataset: a hub id, or a local folder."""
    config: str | None = None
    revision: str | None = None
    split: str = "test"
    """Of the dataset."""

    @property
    def source(self) -> str:
        """What messages call it."""
        return str(self.file or f"dataset {self.dataset!r}")


@dataclass(frozen=True)
class RetentionColumns:
    """Null where no text is named, and after training where there was none. Bits per byte and differences follow."""

    retention_seconds: Annotated[float | None, "loss on held-out general text, before and after training"] = None
    retention_sha256: Annotated[str | None, "of the texts' tokens as scored; equal ones compare"] = None
    retention_texts: Annotated[int | None, "held-out general texts"] = None
    retention_tokens: Annotated[int | None, "their tokens that are predicted: all but each text's first"] = None
    retention_bytes: Annotated[int | None, "UTF-8 bytes of those tokens; null where the tokenizer does not tell"] = None
    retention_loss_before: Annotated[
        float | None, "loss of the untouched base on them, nats per token, at the trial's precision"
    ] = None
    retention_loss_after: Annotated[float | None, "the same with the method active, after training"] = None
    retention_json: Annotated[
        str | None, "as JSON, a number per text: its predicted tokens, its nats before and after training"
    ] = None
