"""In which order a layer's modules work, found by a pass of fake tensors through the layers up to one with attention.

What a module reads is compared by identity with what others gave: nothing is computed, and no weights are needed.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from peftbench.models import layers
from peftbench.models.anatomy import blocks
from peftbench.models.anatomy.blocks import Block

_TOKENS = 5


@dataclass(frozen=True)
class Order:
    """How the parts of a decoder layer follow on each other; None for what the pass did not show."""

    placement: str | None
    """Where the norms stand: ``pre``, ``post`` or ``pre and post``."""
    parallel: bool | None
    """Whether the feed-forward block reads the layer's input and not what attention made of it."""


@dataclass
class _Pass:
    """What was seen in a pass: per module the first tensor that it read and the one that it gave."""

    read: dict[int, int] = field(default_factory=dict)
    gave: dict[int, int] = field(default_factory=dict)
    kept: list[Any] = field(default_factory=list)
    """All of these tensors, so that no id is given twice."""

    def enter(self, module: nn.Module, args: tuple[Any, ...], more: Mapping[str, Any]) -> None:
        """Forward hook before a module runs."""
        found = next((v for v in (*args, *more.values()) if isinstance(v, torch.Tensor)), None)
        if found is not None and id(module) not in self.read:
            self.kept.append(found)
            self.read[id(module)] = id(found)

    def leave(self, module: nn.Module, _: Any, output: Any) -> None:
        """Forward hook after a module ran."""
        found = output[0] if isinstance(output, tuple | list) and output else output
        if isinstance(found, torch.Tensor) and id(module) not in self.gave:
            self.kept.append(found)
            self.gave[id(module)] = id(found)


class _Enough(Exception):
    """The layer has run."""


def trace(config: Any, place: int | None) -> Order | None:
    """Return the order in a decoder layer of a config's model; None if the pass did not get there.

    Args:
        config: a transformers config. Code that comes with a model is not run again.
        place: number of the layer; None if none has attention.
    """
    if place is None:
        return None
    try:
        with _fake():
            return _traced(config, place)
    except Exception:  # whatever a model's code does not do with fake tensors
        return None


def _traced(config: Any, place: int) -> Order | None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_config(config).eval()
    block = blocks.split(layers.decoder_layers(model)[place])
    seen = _Pass()
    for module in block.layer.modules():
        module.register_forward_pre_hook(seen.enter, with_kwargs=True)
        module.register_forward_hook(seen.leave)

    def enough(*_: Any) -> None:
        raise _Enough

    block.layer.register_forward_hook(enough)
    with suppress(Exception):  # the layer has run, or its feed-forward block could not: what was seen counts
        model(input_ids=torch.zeros(1, _TOKENS, dtype=torch.long), use_cache=False)
    return _order(block, seen)


def _order(block: Block, seen: _Pass) -> Order | None:
    """Return the order of a layer from what its modules read and gave."""
    entered, attention = seen.read.get(id(block.layer)), block.attention
    forward = next((m for m in block.feed_forward if id(m) in seen.read), None)
    if entered is None or attention is None or id(attention) not in seen.read:
        return None
    before = {seen.gave[id(m)]: m for m in block.norms if id(m) in seen.gave}
    of_norm = before.get(seen.read[id(attention)])
    fed = before.get(seen.read[id(forward)]) if forward is not None else None
    # the norm before the feed-forward block may read what attention gives, if attention adds its own input to it
    after = any(m is not fed and seen.read.get(id(m)) == seen.gave.get(id(attention), -1) for m in block.norms)
    reached = forward is not None
    parallel = _reads(seen, forward, before) == entered if forward is not None else None
    pre = of_norm is not None and seen.read.get(id(of_norm)) == entered
    if pre:
        return Order("pre and post" if after else "pre" if reached else None, parallel)
    bare = seen.read[id(attention)] == entered
    normed = after or fed is not None
    return Order("post" if bare and normed else None, parallel)


def _reads(seen: _Pass, module: nn.Module, norms: Mapping[int, nn.Module]) -> int:
    """Return the tensor that a module reads, or that the norm before it reads."""
    own = seen.read[id(module)]
    return seen.read[id(norms[own])] if own in norms else own


@contextmanager
def _fake() -> Iterator[None]:
    """Make every tensor in the context a fake one, and be silent about operators that cannot be."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    loggers = [logging.getLogger(name) for name in ("torch._subclasses.fake_tensor", "transformers")]
    disabled = [logger.disabled for logger in loggers]
    for logger in loggers:
        logger.disabled = True
    try:
        with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True):
            yield
    finally:
        for logger, before in zip(loggers, disabled, strict=True):
            logger.disabled = before
