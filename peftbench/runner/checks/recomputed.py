"""Sanity check of gradient checkpointing in parts: gradients are those without it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from peftbench.errors import Unsupported
from peftbench.models import head
from peftbench.models.load import autocast
from peftbench.training import losses
from peftbench.training.batches import Batch
from peftbench.training.loop import Learner

_CLOSE = {True: 1e-4, False: 2e-2}
"""Largest distance of gradients, relative to their norm, by whether everything is computed in fp32. On a CPU there is
none; some kernels of GPUs add up in another order each time."""


def check(learner: Learner, batch: Batch) -> None:
    """Check that gradients do not depend on what is computed again.

    What ``selective`` keeps is given back by the order of operators, so a layer that runs others the second time, as
    layers divided by tensor parallelism do, would get wrong values without an error.

    Args:
        learner: the tuned model, ready to train on one device; it is not changed.
        batch: a few training examples.

    Raises:
        Unsupported: if they do.
    """
    learner.model.train()
    found = _gradients(learner, batch)
    with _nothing_again(learner.model):
        expected = _gradients(learner, batch)
    distance = float((found - expected).norm() / expected.norm())
    whole = learner.precision.autocast is None and learner.precision.trainable == "float32"
    if expected.any() and not distance <= _CLOSE[whole]:
        raise Unsupported(
            f"{type(head.base_of(learner.model)).__name__}: gradients with gradient_checkpointing: "
            f"{learner.training.gradient_checkpointing} are not those without ({100 * distance:.2g} % apart); use "
            "gradient_checkpointing: true"
        )


def _gradients(learner: Learner, batch: Batch) -> torch.Tensor:
    """Return the gradients of a batch's loss in one vector, with the same random numbers each time."""
    devices = [torch.cuda.current_device()] if learner.device == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(0)
        with autocast(learner.precision, learner.device):
            loss = losses.batch_loss(learner.model, batch.to(learner.device))
        found = torch.autograd.grad(loss, list(learner.parameters), allow_unused=True)
    return torch.cat([torch.zeros(1, device=loss.device), *(g.flatten().float() for g in found if g is not None)])


@contextmanager
def _nothing_again(model: Any) -> Iterator[None]:
    """Keep all activations within the context."""
    own = [m for m in model.modules() if getattr(m, "gradient_checkpointing", False)]
    try:
        for module in own:
            module.gradient_checkpointing = False
        yield
    finally:
        for module in own:
            module.gradient_checkpointing = True
