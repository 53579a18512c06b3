"""The columns of ``trials`` about retention: how much a model forgot of general text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from peftbench.records.columns.group import ColumnGroup


@dataclass(frozen=True, kw_only=True)
class RetentionColumns(ColumnGroup):
    """Null if the suite names no text. Bits per byte and differences are derived from these columns."""

    retention_seconds: Annotated[
        float | None, "measuring the loss on held-out general text, before and after training"
    ] = None
    retention_sha256: Annotated[str | None, "SHA-256 of the texts' tokens as scored; only equal ones compare"] = None
    retention_texts: Annotated[int | None, "held-out general texts"] = None
    retention_tokens: Annotated[int | None, "their predicted tokens: all but the first of each text"] = None
    retention_bytes: Annotated[
        int | None, "UTF-8 bytes of the predicted tokens; null if the tokenizer does not report offsets"
    ] = None
    retention_loss_before: Annotated[
        float | None, "loss of the unchanged base model on them, nats per token, at the trial's precision"
    ] = None
    retention_loss_after: Annotated[
        float | None, "the same after training, with the method active; null if nothing was trained"
    ] = None
    retention_json: Annotated[
        str | None, "as JSON, one number per text: its predicted tokens, its nats before and after training"
    ] = None
