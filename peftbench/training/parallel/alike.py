"""The micro-batches of a step in one shape, which the stages of a pipeline need: their buffers have a fixed size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch.nn import functional

from peftbench.training.batches import IGNORED, Batch


def padded_alike(batches: Sequence[Batch], pad_id: int) -> list[Batch]:
    """Return micro-batches of equal shape with the same loss: of the step's most rows and its longest row.

    Columns are padding on the right, which no data token attends to. Rows that are missing repeat a batch's first row
    with nothing in the loss.

    Args:
        batches: the micro-batches of a step, without targets of a head.
        pad_id: id of the token that pads.
    """
    rows = max(batch.ids.shape[0] for batch in batches)
    length = max(batch.ids.shape[1] for batch in batches)
    return [_taller(_wider(batch, length, pad_id), rows) for batch in batches]


def _wider(batch: Batch, length: int, pad_id: int) -> Batch:
    more = length - batch.ids.shape[1]
    if not more:
        return batch
    positions = batch.positions
    if positions is not None:  # padding is one more example of its row, which goes on or begins here
        begun = batch.mask[:, -1:] == 0
        start = torch.where(begun, positions[:, -1:] + 1, 0)
        positions = torch.cat([positions, start + torch.arange(more, device=positions.device)], dim=1)
    return replace(
        batch,
        ids=functional.pad(batch.ids, (0, more), value=pad_id),
        mask=functional.pad(batch.mask, (0, more)),
        labels=functional.pad(batch.labels, (0, more), value=IGNORED),
        positions=positions,
    )


def _taller(batch: Batch, rows: int) -> Batch:
    more = rows - batch.ids.shape[0]
    if not more:
        return batch

    def extended(tensor: torch.Tensor) -> torch.Tensor:
        return torch.cat([tensor, tensor[:1].expand(more, -1)])

    labels = torch.cat([batch.labels, torch.full_like(batch.labels[:1], IGNORED).expand(more, -1)])
    positions = None if batch.positions is None else extended(batch.positions)
    return replace(batch, ids=extended(batch.ids), mask=extended(batch.mask), labels=labels, positions=positions)
