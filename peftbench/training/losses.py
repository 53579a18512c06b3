"""The loss of one forward pass, the same for every method and however many devices share the step."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

from peftbench.models import head
from peftbench.training import logits as some
from peftbench.training.batches import IGNORED, Batch


def batch_loss(model: Any, batch: Batch) -> torch.Tensor:
    """Return the cross-entropy summed over the batch's tokens in the loss, in nats.

    Logits have shape (b, p + t, v), with p virtual tokens of the method first; the last t positions are the data. With
    a head for whole texts they have shape (b, classes), and the sum is over the texts; for regression it is of squared
    errors. If the batch says where logits are needed, they are made there alone.
    """
    if batch.bearing is not None:
        return some.losses(model, batch.inputs, batch.labels, batch.bearing, IGNORED).sum()
    return of_logits(head.predictions(model, batch.inputs), batch)


def of_logits(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Return the summed loss of a batch's logits; see ``batch_loss``."""
    if batch.targets is not None:
        if batch.targets.is_floating_point():
            return functional.mse_loss(logits[:, 0].float(), batch.targets, reduction="sum")
        return functional.cross_entropy(logits.float(), batch.targets, reduction="sum")
    return _cross_entropy(logits, batch, "sum")


def of_tokens(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Return the loss of predicting each token but the first, (b, t - 1), of logits as for ``batch_loss``."""
    return _cross_entropy(logits, batch, "none").unflatten(0, (len(batch.ids), -1))


def _cross_entropy(logits: torch.Tensor, batch: Batch, reduction: str) -> torch.Tensor:
    logits = logits[:, -batch.ids.shape[1] :]
    return functional.cross_entropy(
        logits[:, :-1].flatten(0, 1).float(), batch.labels[:, 1:].flatten(), ignore_index=IGNORED, reduction=reduction
    )
