"""The columns of ``trials`` that tell what was forgotten."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated


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
