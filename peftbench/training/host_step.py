"""Optimizer steps on the host: its memory holds gradients and optimizer state (``train.offload: optimizer``).

Each gradient leaves the device as soon as the backward pass has made it, and those of micro-batches are added up on the
host. For clipping and for the step, the parameters themselves are on the host: the same optimizer sees the same
parameters, so that everything that knows them by identity stays as it is. Afterwards they are on the device again, with
their new values. The state is made in the first step, and so stays on the host.

References:
    Ren et al. 2021, arXiv:2101.06840 (ZeRO-Offload), section 4, without its second precision.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import nn

from peftbench.measure import ledger, optimizer_state
from peftbench.training import host_weights

Gradients = dict[Any, torch.Tensor]
"""Parameter -> its gradient on the host, of the parameter's shape."""


def takes(learner: Any) -> bool:
    """Return whether a learner's optimizer takes its steps on the host."""
    return bool(learner.training.offloads("optimizer"))


@contextmanager
def collecting(learner: Any) -> Iterator[Gradients]:
    """Move each gradient to the host as soon as it is made, where the learner's settings want it.

    Yields:
        The gradients, added up over the backward passes within the context; empty if they stay on the device.
    """
    found: Gradients = {}

    def move(parameter: torch.Tensor) -> None:
        gradient, parameter.grad = parameter.grad, None
        assert gradient is not None
        if parameter in found:
            found[parameter].add_(_copied(gradient, wait=True))
        else:
            found[parameter] = _copied(gradient)

    trained = [p for p in learner.parameters if p.requires_grad] if takes(learner) else []
    hooks = [p.register_post_accumulate_grad_hook(move) for p in trained]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def on_host(learner: Any, gradients: Gradients) -> Iterator[None]:
    """Have parameters, gradients and all that the optimizer makes on the host, where the learner's settings want it.

    Args:
        learner: its parameters are on their device again after the context, with the values that they have then.
        gradients: of ``collecting``; emptied.
    """
    with placed(learner.parameters) if takes(learner) else nullcontext():
        for parameter in list(gradients):
            parameter.grad = gradients.pop(parameter)
        try:
            yield
        finally:
            for parameter in learner.parameters if takes(learner) else ():
                parameter.grad = None


@contextmanager
@torch.no_grad()
def placed(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Have parameters on the host within the context; what the context makes is of the host too."""
    trained = [p for p in parameters if p.requires_grad]
    own = [p.data for p in trained]
    for parameter, values in zip(trained, own, strict=True):
        parameter.data = _copied(values)
    if own and own[0].is_cuda:
        torch.cuda.synchronize()  # copies, those of gradients too, do not wait for the device
    try:
        with ledger.on_host():
            yield
    finally:
        for parameter, values in zip(trained, own, strict=True):
            values.copy_(parameter.data)
            parameter.data = values


def held(learner: Any) -> Iterator[torch.Tensor]:
    """Yield what a learner holds on the host between steps: frozen weights, and its optimizer's state."""
    yield from host_weights.held(learner.model)
    if takes(learner):
        for entry in learner.optimizer.state.values():
            yield from (v for v in optimizer_state.flat(entry).values() if isinstance(v, torch.Tensor))


def _copied(values: torch.Tensor, wait: bool = False) -> torch.Tensor:
    """Return a copy of a tensor on the host, in pinned memory from a GPU.

    Args:
        values: of any shape and device.
        wait: whether the copy is whole when this returns.
    """
    with ledger.on_host():
        host = torch.empty_like(values, device="cpu", pin_memory=values.is_cuda)
        return host.copy_(values.detach(), non_blocking=values.is_cuda and not wait)
