"""What a model forgets: its loss on held-out general text before and after training, text by text.

Also called forgetting. The loss before is the untouched base's in the same process, at the trial's precision and with
its kernels, so that the difference holds what training did and nothing else. Texts are read as they are, each from its
beginning, cut at the longest length of evaluation; no end-of-text is added, and no token is predicted from nothing.
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
"""Texts per forward pass where the suite leaves evaluation's batch size to be found."""


@dataclass(frozen=True)
class Held:
    """The texts of a trial, tokenized, and how a model reads them."""

    encoded: tuple[Encoded, ...]
    bytes: int | None
    """Of all predicted tokens; None where the tokenizer does not tell."""
    batch_size: int
    pad_id: int
    precision: Precision
    device: str

    @torch.no_grad()
    def nats(self, model: Any) -> list[float]:
        """Return each text's summed loss in nats; a text of one token has none.

        Positions that a method puts first (b, p + t, v) are not the data's: the last t are.
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
        """Yield texts of like length together, longest first: little padding, and the peak comes at once."""
        ordered = sorted(self.encoded, key=lambda e: -len(e.ids))
        return (ordered[start : start + self.batch_size] for start in range(0, len(ordered), self.batch_size))


def held(trial: Trial, source: Retention, tokenizer: Any) -> Held:
    """Return a trial's held-out general text.

    Raises:
        UserError: if the text cannot be read, or has nothing to predict.
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
        before: nats of each text under the untouched base.
        after: the same after training; None where there was none.
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
    """Return a text's first tokens and the UTF-8 bytes of all but the first of them."""
    found = tokenizer(text, return_offsets_mapping=True) if tokenizer.is_fast else tokenizer(text)
    ids = found["input_ids"]
    if len(ids) > 1 and ids[-1] == tokenizer.eos_token_id:  # some tokenizers close every text themselves
        ids = ids[:-1]
    encoded = Encoded(tuple(ids[:length]), 1, len(ids) > length, ("retention", index))
    if not tokenizer.is_fast:
        return encoded, None
    ends = found["offset_mapping"][: len(encoded.ids)]
    return encoded, len(text[ends[1][0] : ends[-1][1]].encode()) if len(ends) > 1 else 0
