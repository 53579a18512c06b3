"""Sanity checks: training changed the output and the trainable tensors, and left frozen parameters unchanged.

Frozen buffers and the scales of quantized weights are not compared.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from peftbench.models.load import autocast, checksum
from peftbench.models.precision import Precision
from peftbench.records import Status
from peftbench.records.columns.sanity import SanityColumns
from peftbench.training.batches import Batch

_PERTURBATION = 0.05
"""Standard deviation of the noise that is added to parameters to check a method before it is trained."""


@dataclass(frozen=True)
class Before:
    """The state of a model before training."""

    logits: torch.Tensor
    """(b, t, v) of the base model on the probe batch, on the host."""
    trainable: Mapping[str, int]
    """Checksum per trainable tensor."""
    frozen: Mapping[str, int]
    """Checksum per frozen tensor."""


@torch.no_grad()
def probe(model: Any, batch: Batch, precision: Precision, device: str) -> torch.Tensor:
    """Return the model's logits for the data positions of a batch, in evaluation mode, on the host."""
    model.eval()
    on_device = batch.to(device)
    with autocast(precision, device):
        out = model(**on_device.inputs, use_cache=False)
    return out.logits[:, -batch.ids.shape[1] :].float().cpu()


@contextmanager
def perturbed(parameters: Iterable[torch.Tensor]) -> Iterator[None]:
    """Add noise to parameters within the context, so that a method whose initial update is zero has an effect.

    The parameters and the random state are restored bit for bit.
    """
    kept = [(parameter, parameter.detach().clone()) for parameter in parameters]
    devices = {p.device for p, _ in kept if p.device.type == "cuda"}
    with torch.random.fork_rng(devices=devices), torch.no_grad():
        torch.manual_seed(0)
        for parameter, before in kept:
            parameter.add_(torch.randn_like(before).mul_(_PERTURBATION))
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, before in kept:
                parameter.copy_(before)


def checksums(model: nn.Module, trainable: bool) -> dict[str, int]:
    """Return the checksums of all trainable parameters, or of all frozen ones, by name."""
    return {n: checksum(p) for n, p in model.named_parameters() if p.requires_grad is trainable}


def verdict(model: nn.Module, before: Before, after: torch.Tensor) -> tuple[SanityColumns, Status, str | None]:
    """Compare a trained model with its state before training.

    Args:
        model: the trained model.
        before: its state before training.
        after: logits of the trained model on the probe batch, (b, t, v), on the host.

    Returns:
        The columns of the sanity checks, the status (``ok``, ``inert``, ``corrupt`` or ``diverged``), and the reason
        if it is not ok.
    """
    now = checksums(model, trainable=True)
    stalled = sorted(name for name, value in now.items() if before.trainable[name] == value)
    frozen = checksums(model, trainable=False)
    broken = sorted(name for name, value in frozen.items() if before.frozen[name] != value)
    change = float((after - before.logits).abs().max())
    columns = SanityColumns(
        trainable_tensors=len(now),
        moved_tensors=len(now) - len(stalled),
        stalled_tensors=", ".join(stalled) or None,
        largest_logit_change=change,
    )
    if broken:
        return columns, Status.CORRUPT, f"frozen weights changed: {', '.join(broken[:5])}"
    if len(stalled) == len(now):
        return columns, Status.INERT, "training changed no trainable tensor"
    if not math.isfinite(change):
        return columns, Status.DIVERGED, "the tuned model's logits are not all finite"
    if change == 0.0:
        return columns, Status.INERT, "the tuned model's logits equal the base model's"
    return columns, Status.OK, None
