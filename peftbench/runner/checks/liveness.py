"""Sanity checks: training changed the output and the trainable tensors, and left frozen parameters unchanged.

Frozen buffers and the scales of quantized weights are not compared.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from peftbench.models import divided, head
from peftbench.models.load import autocast, checksum
from peftbench.models.precision import Precision
from peftbench.records import Status
from peftbench.records.columns.sanity import SanityColumns
from peftbench.training.batches import Batch

VIRTUAL = re.compile(r"prompt_encoder\..*((?<!delta_)embedding|transform\.2)\.weight$|llama_adapter\.prompt$")
"""Tensors whose rows or columns belong to single virtual tokens, layers or heads, all of which should train. Not CPT's
``delta_embedding``, whose rows for labels are fixed (arXiv:2410.17222)."""
_PART = 16
"""Values of a row of such a tensor that are compared together: no more than the keys or values of one head."""
_WHOLE = {2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Bytes of a value -> type of whole numbers with as many."""
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
    parts: Mapping[str, list[int]]
    """Checksums of the parts of each trainable tensor of virtual tokens."""


@torch.no_grad()
def probe(model: Any, batch: Batch, precision: Precision, device: str) -> torch.Tensor:
    """Return the model's logits for a batch's data positions or whole texts, in evaluation mode, on the host."""
    model.eval()
    on_device = batch.to(device)
    with autocast(precision, device):
        found = head.predictions(model, on_device.inputs)
    return (found if batch.targets is not None else found[:, -batch.ids.shape[1] :]).float().cpu()


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
            like = divided.own(before).new_empty(before.shape) if divided.is_divided(before) else before
            noise = torch.randn_like(like).mul_(_PERTURBATION)
            divided.own(parameter).add_(divided.part(noise, parameter))
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, before in kept:
                parameter.copy_(before)


def checksums(model: nn.Module, trainable: bool) -> dict[str, int]:
    """Return the checksums of all trainable parameters, or of all frozen ones, by name."""
    return {n: checksum(p) for n, p in model.named_parameters() if p.requires_grad is trainable}


def parts(model: nn.Module) -> dict[str, list[int]]:
    """Return checksums of parts of the trainable tensors of virtual tokens: some values of each row."""
    return {n: _parts(p) for n, p in model.named_parameters() if p.requires_grad and VIRTUAL.search(n)}


def _parts(tensor: torch.Tensor) -> list[int]:
    bits = divided.whole(tensor.detach()).contiguous().view(_WHOLE[tensor.element_size()])
    together = math.gcd(_PART, bits.shape[-1])
    found: list[int] = bits.reshape(-1, together).sum(-1, dtype=torch.int64).tolist()
    return found


def _stalled_parts(before: Mapping[str, list[int]], now: Mapping[str, list[int]]) -> Iterator[str]:
    """Yield the tensors of virtual tokens of which some parts did not change, with their share."""
    for name, found in now.items():
        still = sum(a == b for a, b in zip(before[name], found, strict=True))
        if 0 < still < len(found):
            yield f"{max(1, round(100 * still / len(found)))} % of {name}"


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
        stalled_tensors=", ".join([*stalled, *_stalled_parts(before.parts, parts(model))]) or None,
        largest_logit_change=change,
    )
    if broken:
        return columns, Status.CORRUPT, f"frozen weights changed: {', '.join(broken[:5])}"
    own = set(now) - head_names(model)
    if own <= set(stalled):
        what = "no trainable tensor" if len(own) == len(now) else "no trainable tensor but those of the head"
        return columns, Status.INERT, f"training changed {what}"
    if not math.isfinite(change):
        return columns, Status.DIVERGED, "the tuned model's logits are not all finite"
    if change == 0.0:
        return columns, Status.INERT, "the tuned model's logits equal the base model's"
    return columns, Status.OK, None


def head_names(model: Any) -> set[str]:
    """Return the names, in a tuned model, of the parameters of its head for whole texts; none if it predicts tokens."""
    apart = head.apart(model)
    return {name for name, p in model.named_parameters() if id(p) in apart}
