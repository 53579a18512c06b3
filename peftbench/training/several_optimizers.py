"""Several optimizers that are used as one, and steps that are taken within the backward pass.

In the backward pass (LOMO's way, Lv et al. 2023, arXiv:2306.09782) each parameter has an optimizer of its own, which
takes its step as soon as the gradient is whole; then the gradient is freed. So there is one gradient at a time, and no
norm over all of them by which they could be clipped.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from peftbench.training import turns


class Several:
    """Optimizers of disjoint parameters, with the interface of one."""

    def __init__(self, parts: Sequence[Any], in_backward: bool = False) -> None:
        self.parts = tuple(parts)
        self.in_backward = in_backward
        """Whether each part takes its step in the backward pass; then it has one parameter."""
        self.param_groups = [group for part in self.parts for group in part.param_groups]
        self.state = self.parts[0].state
        for part in self.parts:
            part.state = self.state

    def step(self) -> None:
        """Take a step with every gradient that exists."""
        for part in self.parts:
            part.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop every gradient."""
        for part in self.parts:
            part.zero_grad(set_to_none=set_to_none)


def in_backward(optimizer: Any) -> bool:
    """Return whether an optimizer takes its steps in the backward pass."""
    return bool(getattr(optimizer, "in_backward", False))


@contextmanager
def stepping(optimizer: Several) -> Iterator[list[torch.Tensor]]:
    """Take each parameter's step in the backward pass within the context, and free its gradient.

    Yields:
        A list that receives the norm of each gradient.
    """
    norms: list[torch.Tensor] = []

    def hook(part: Any) -> Any:
        def take(parameter: torch.Tensor) -> None:
            assert parameter.grad is not None
            norms.append(torch.linalg.vector_norm(parameter.grad, dtype=torch.float32))
            part.step()
            parameter.grad = None

        return take

    hooks = []
    for part in optimizer.parts:
        for group in part.param_groups:
            hooks += [p.register_post_accumulate_grad_hook(hook(part)) for p in group["params"] if p.requires_grad]
    try:
        yield norms
    finally:
        for each in hooks:
            each.remove()


@contextmanager
def dropping(optimizer: Any, parameters: Sequence[nn.Parameter], every: bool = False) -> Iterator[set[nn.Parameter]]:
    """Free each gradient as soon as it is whole, if training never has all at once: a card may not have room for them.

    Args:
        optimizer: what trains them.
        parameters: those that train.
        every: whether gradients leave the device as they are made, whatever the optimizer.

    Yields:
        A set that receives the parameters whose gradients were freed and not zero.
    """
    reached: set[nn.Parameter] = set()

    def drop(parameter: Any) -> None:
        if bool(parameter.grad.any()):
            reached.add(parameter)
        parameter.grad = None

    freed = [p for p in parameters if p.requires_grad and (every or in_backward(optimizer) or turns.in_turns(p))]
    hooks = [p.register_post_accumulate_grad_hook(drop) for p in freed]
    try:
        yield reached
    finally:
        for each in hooks:
            each.remove()
