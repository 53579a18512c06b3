"""Sanity check of gradient checkpointing in parts: gradients are those without it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch

from peftbench.errors import Unsupported
from peftbench.models import head
from peftbench.models.load import autocast
from peftbench.training import losses
from peftbench.training.batches import Batch
from peftbench.training.loop import Learner

CLOSE = {True: 1e-4, False: 2e-2}
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
    apart = distance(learner, batch, nullcontext(), _nothing_again(learner.model))
    whole = learner.precision.autocast is None and learner.precision.trainable == "float32"
    if not apart <= CLOSE[whole]:
        raise Unsupported(
            f"{type(head.base_of(learner.model)).__name__}: gradients with gradient_checkpointing: "
            f"{learner.training.gradient_checkpointing} are not those without ({100 * apart:.2g} % apart); use "
            "gradient_checkpointing: true"
        )


def distance(
    learner: Learner,
    batch: Batch,
    one: AbstractContextManager[Any],
    other: AbstractContextManager[Any],
    expected: Batch | None = None,
) -> float:
    """Return the first of ``distances``."""
    return distances(learner, batch, one, other, expected)[0]


def distances(
    learner: Learner,
    batch: Batch,
    one: AbstractContextManager[Any],
    other: AbstractContextManager[Any],
    expected: Batch | None = None,
) -> tuple[float, float]:
    """Return the distance between the gradients in two contexts, relative to the norm of the latter: of all parameters
    together, and the largest of a single one whose gradient is a thousandth of the whole or more.

    Args:
        learner: the tuned model, ready to train on one device; it is not changed.
        batch: a few training examples.
        one: a context.
        other: the context of the gradients that are right.
        expected: the batch of these, if it is another.
    """
    learner.model.train()
    first: dict[Any, torch.Tensor] = {}
    squares = {"apart": 0.0, "whole": 0.0}
    each_one: list[tuple[float, float]] = []

    def keep(parameter: Any) -> None:
        first[parameter] = parameter.grad.to("cpu")

    def compare(parameter: Any) -> None:
        expected, found = parameter.grad.float(), first.pop(parameter, torch.zeros(())).to(parameter.device).float()
        each_one.append((float((found - expected).norm()), float(expected.norm())))
        squares["apart"] += each_one[-1][0] ** 2
        squares["whole"] += each_one[-1][1] ** 2

    with one:
        _each_gradient(learner, batch, keep)
    with other:
        _each_gradient(learner, expected or batch, compare)
    squares["apart"] += sum(float(each.float().norm()) ** 2 for each in first.values())
    if not squares["whole"]:
        return 0.0, 0.0
    least = 1e-3 * math.sqrt(squares["whole"])
    worst = max((apart / norm for apart, norm in each_one if norm > least), default=0.0)
    return math.sqrt(squares["apart"] / squares["whole"]), worst


def _each_gradient(learner: Learner, batch: Batch, use: Callable[[Any], None]) -> None:
    """Call a function with each parameter once its gradient of a batch's loss is whole, with the same random numbers
    each time.

    Gradients are freed one by one: a card may have room for no more, as with steps in the backward pass.
    """

    def drop(parameter: Any) -> None:
        use(parameter)
        parameter.grad = None

    devices = [torch.cuda.current_device()] if learner.device == "cuda" else []
    hooks = [parameter.register_post_accumulate_grad_hook(drop) for parameter in learner.parameters]
    try:
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(0)
            with autocast(learner.precision, learner.device):
                loss = losses.batch_loss(learner.model, batch.to(learner.device))
            loss.backward()
    finally:
        for hook in hooks:
            hook.remove()


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
