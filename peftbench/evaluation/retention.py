"""Retention of general text (also: forgetting): the loss on held-out text before and after training, text by text.

The loss before is that of the untouched base model in the same process, with the trial's precision and kernels, so that
the difference is due to training only. Texts are read unchanged from their beginning and truncated at evaluation's
maximum length. No end-of-text token is added, and the first token of a text is not predicted.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from peftbench.errors import UserError
from peftbench.models.load import autocast
from peftbench.models.precision import Precision, effective
from peftbench.records import Retention, Trial
from peftbench.records.columns.retention import RetentionColumns
from peftbench.tasks.general_text import texts
from peftbench.training.batches import IGNORED, collate
from peftbench.training.encoded import Encoded

_BATCH = 16
"""Texts per forward pass if the suite gives no batch size for evaluation."""


@dataclass(frozen=True)
class Held:
    """The tokenized texts of a trial, and how a model reads them."""

    encoded: tuple[Encoded, ...]
    bytes: int | None
    """UTF-8 bytes of all predicted tokens; None if the tokenizer gives no offsets."""
    batch_size: int
    pad_id: int
    precision: Precision
    device: str

    @torch.no_grad()
    def nats(self, model: Any) -> list[float]:
        """Return the summed loss of each text in nats; 0 for a text of one token.

        A method with virtual tokens may give logits of shape (b, p + t, v); the last t positions are those of the text.
        """
        model.eval()
        found: dict[tuple[str, int], float] = {}
        for batch in self._batches():
            padded = collate(batch, self.pad_id).to(self.device)
            with autocast(self.precision, self.device):
                out = model(input_ids=padded.ids, attention_mask=padded.mask, use_cache=False)
            logits = out.logits[:, -padded.ids.shape[1] :][:, :-1].float()
            losses = functional.cross_entropy(
                logits.transpose(1, 2), padded.labels[:, 1:], ignore_index=IGNORED, reduction="none"
            )
            found.update(zip((e.identity for e in batch), losses.sum(1).tolist(), strict=True))
        return [found[e.identity] for e in self.encoded]

    def _batches(self) -> Iterator[list[Encoded]]:
        """Yield batches of texts of similar length, longest first: little padding, and the memory peak comes first."""
        ordered = sorted(self.encoded, key=lambda e: -len(e.ids))
        return (ordered[start : start + self.batch_size] for start in range(0, len(ordered), self.batch_size))


def held(trial: Trial, source: Retention, tokenizer: Any) -> Held:
    """Return the held-out general text of a trial.

    Raises:
        UserError: if the text cannot be read, or no text has two tokens.
    """
    evaluation = trial.evaluation
    pairs = [_encode(tokenizer, text, index, evaluation.max_length) for index, text in enumerate(texts(source))]
    encoded, sizes = tuple(e for e, _ in pairs), [size for _, size in pairs]
    if not any(len(e.ids) > 1 for e in encoded):
        raise UserError(f"evaluate.retention: {source.source} holds no text of two tokens or more")
    known = None if None in sizes else sum(size for size in sizes if size is not None)
    precision = effective(trial.precision, trial.options)
    batch = evaluation.batch_size or _BATCH
    return Held(encoded, known, batch, tokenizer.pad_token_id, precision, trial.device)


def columns(held: Held, before: Sequence[float], after: Sequence[float] | None) -> RetentionColumns:
    """Return the row's columns.

    Args:
        held: the texts.
        before: loss of each text under the untouched base model, nats.
        after: the same after training; None without training.
    """
    tokens = [len(e.ids) - 1 for e in held.encoded]
    raw: dict[str, Sequence[float]] = {"tokens": tokens, "before": [round(nats, 5) for nats in before]}
    if after is not None:
        raw["after"] = [round(nats, 5) for nats in after]
    return RetentionColumns(
        retention_sha256=hashlib.sha256(repr([e.ids for e in held.encoded]).encode()).hexdigest(),
        retention_texts=len(tokens),
        retention_tokens=sum(tokens),
        retention_bytes=held.bytes,
        retention_loss_before=sum(before) / sum(tokens),
        retention_loss_after=None if after is None else sum(after) / sum(tokens),
        retention_json=json.dumps(raw),
    )


def _encode(tokenizer: Any, text: str, index: int, length: int) -> tuple[Encoded, int | None]:
    """Return the first ``length`` tokens of a text, and the UTF-8 bytes of all but the first of them if known."""
    found = tokenizer(text, return_offsets_mapping=True) if tokenizer.is_fast else tokenizer(text)
    ids = found["input_ids"]
    if len(ids) > 1 and ids[-1] == tokenizer.eos_token_id:  # some tokenizers append end-of-text
        ids = ids[:-1]
    encoded = Encoded(tuple(ids[:length]), 1, len(ids) > length, ("retention", index))
    if not tokenizer.is_fast:
        return encoded, None
    ends = found["offset_mapping"][: len(encoded.ids)]
    return encoded, len(text[ends[1][0] : ends[-1][1]].encode()) if len(ends) > 1 else 0
