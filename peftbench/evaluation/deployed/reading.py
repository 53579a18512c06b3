"""Loss and logits of a model on the targets of scored examples, read after their prompts and not decoded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from peftbench.models.load import autocast
from peftbench.models.precision import Precision
from peftbench.records import Evaluation, Example, ExampleRow
from peftbench.training.batches import IGNORED, collate
from peftbench.training.encoded import Encoded, encode

_BATCH = 16
"""Examples per forward pass if the suite gives no batch size for evaluation."""
_KEPT = 2**24
"""Most logits that are kept for comparison: those of the first examples' targets."""


@dataclass(frozen=True)
class Targets:
    """The tokenized examples of all scored tasks; an example is identified by task and index."""

    encoded: tuple[Encoded, ...]
    batch_size: int
    pad_id: int
    device: str

    def tokens(self) -> dict[str, list[int]]:
        """Return the tokens of each example's target, by task."""
        return self.by_task({e.identity: _predicted(e) for e in self.encoded})

    def by_task(self, found: Mapping[tuple[str, int], Any]) -> dict[str, list[Any]]:
        """Return by task what was found for each example, in their order."""
        listed: dict[str, list[Any]] = {}
        for e in self.encoded:
            listed.setdefault(e.identity[0], []).append(found[e.identity])
        return listed

    @torch.no_grad()
    def read(self, model: Any, precision: Precision) -> Reading:
        """Return a model's losses on all targets and its logits on the first ones.

        Batches and their order are the same for every model. A method with virtual tokens may give logits of shape
        (b, p + t, v); the last t positions are those of the text.
        """
        model.eval()
        nats: dict[tuple[str, int], float] = {}
        logits: dict[tuple[str, int], torch.Tensor] = {}
        kept: set[tuple[str, int]] | None = None
        ordered = sorted(self.encoded, key=lambda e: -len(e.ids))
        for start in range(0, len(ordered), self.batch_size):
            some = ordered[start : start + self.batch_size]
            batch = collate(some, self.pad_id).to(self.device)
            with autocast(precision, self.device):
                out = model(input_ids=batch.ids, attention_mask=batch.mask, use_cache=False)
            found = out.logits[:, -batch.ids.shape[1] :][:, :-1].float()
            losses = functional.cross_entropy(
                found.transpose(1, 2), batch.labels[:, 1:], ignore_index=IGNORED, reduction="none"
            )
            wanted = batch.labels[:, 1:] != IGNORED
            kept = self._first(found.shape[-1]) if kept is None else kept
            for row, (e, loss) in enumerate(zip(some, losses.sum(1).tolist(), strict=True)):
                nats[e.identity] = loss
                if e.identity in kept:
                    logits[e.identity] = found[row][wanted[row]].cpu()
        return Reading(
            self.by_task(nats), torch.cat([logits[e.identity] for e in self.encoded if e.identity in logits])
        )

    def _first(self, vocabulary: int) -> set[tuple[str, int]]:
        """Return the first examples whose targets' logits may be kept; at least one."""
        kept: set[tuple[str, int]] = set()
        count = 0
        for e in self.encoded:
            count += vocabulary * _predicted(e)
            if kept and count > _KEPT:
                break
            kept.add(e.identity)
        return kept


@dataclass(frozen=True)
class Reading:
    """What a model gives for the targets."""

    nats: Mapping[str, Sequence[float]]
    """Task -> summed loss of each example's target."""
    logits: torch.Tensor
    """(n, v) at the positions that predict the first examples' targets, on the host."""


def _predicted(e: Encoded) -> int:
    """Return the number of tokens whose loss is counted."""
    return int((collate([e], 0).labels[:, 1:] != IGNORED).sum())


def targets(tokenizer: Any, examples: Mapping[str, Sequence[Example]], evaluation: Evaluation, device: str) -> Targets:
    """Return the scored examples with their targets as in training, at most ``max_length`` tokens.

    Args:
        tokenizer: the base model's.
        examples: the scored examples of each task.
        evaluation: how to score.
        device: ``cpu`` or ``cuda``.

    Raises:
        Unsupported: if the tokenizer has no end-of-text token.
    """
    pairs = [((task, index), e) for task, found in examples.items() for index, e in enumerate(found)]
    encoded = tuple(encode(tokenizer, pairs, evaluation.max_length, "completion"))
    return Targets(encoded, evaluation.batch_size or _BATCH, tokenizer.pad_token_id, device)


def tasks(
    scores: Mapping[str, float], rows: Sequence[ExampleRow], nats: Mapping[str, Sequence[float]]
) -> dict[str, dict[str, Any]]:
    """Return by task the score, each example's outcome and the loss on its target."""
    outcomes: dict[str, list[tuple[int, float]]] = {}
    for row in rows:
        outcomes.setdefault(row.task, []).append((row.index, row.outcome))
    return {
        task: {
            "score": score,
            "outcomes": [round(value, 6) for _, value in sorted(outcomes[task])],
            "nats": [round(value, 5) for value in nats[task]],
        }
        for task, score in scores.items()
    }
