"""Decoder layers that train in turns: at each moment some of them, with gradients and optimizer state for these alone.

LISA draws the layers of a turn at random, and all that is no decoder layer (embeddings, last norm, head) trains in
every turn. BAdam takes blocks of neighbouring layers, in an order that is drawn anew for each round over all blocks,
and trains nothing else. The optimizer's state of layers that are not in the next turn is dropped, so that these begin
with new moments when they are drawn again. Which layers a turn has follows from the seed and the step alone, by which
training that was interrupted continues as if it had not been.

References:
    Pan et al. 2024, arXiv:2403.17919, algorithm 1 (LISA); Luo et al. 2024, arXiv:2404.02827, algorithm 1 (BAdam).
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn

from peftbench.errors import Unsupported
from peftbench.models import head

LISA, BADAM = "lisa", "badam"
SIZES = {LISA: 2, BADAM: 1}
"""Layers of a turn, by default: the papers'."""
STEPS = {LISA: 20, BADAM: 50}
"""Steps of a turn, by default: those of the authors' programs."""
_LAYER = "peftbench_turn_layer"
_TURNS = "peftbench_turns"


@dataclass(frozen=True)
class Turns:
    """Whose turn it is at each step."""

    kind: str
    """``lisa`` or ``badam``."""
    size: int
    """Layers of a turn; BAdam's last block has what is left."""
    steps: int
    """Steps of a turn."""
    depth: int
    """Number of decoder layers."""
    seed: int

    def layers(self, step: int) -> frozenset[int]:
        """Return the layers that train in a step, counted from 0."""
        turn = step // self.steps
        if self.kind == LISA:
            return frozenset(random.Random(f"{self.seed} {turn}").sample(range(self.depth), self.size))
        blocks = self.blocks
        round_, place = divmod(turn, len(blocks))
        return blocks[random.Random(f"{self.seed} {round_}").sample(range(len(blocks)), len(blocks))[place]]

    @property
    def blocks(self) -> Sequence[frozenset[int]]:
        """The blocks of neighbouring layers, from the lowest."""
        starts = range(0, self.depth, self.size)
        return [frozenset(range(start, min(start + self.size, self.depth))) for start in starts]

    @property
    def extremes(self) -> Sequence[frozenset[int]]:
        """The lowest and the highest layers that can have a turn together.

        Where layers are alike, no turn has a higher peak than both: each layer that trains keeps its inputs until its
        backward pass and has a gradient afterwards, so that the lowest ones keep most at the end of the forward pass,
        and the highest ones have gradients while all below them keeps its activations. The work of a step is linear in
        the places of the layers, and its mean over turns is the mean of these two.
        """
        if self.kind == LISA:
            return [frozenset(range(self.size)), frozenset(range(self.depth - self.size, self.depth))]
        return [self.blocks[0], self.blocks[-1]]


def mark(model: Any, turns: Turns, layers: nn.ModuleList) -> None:
    """Let the trainable parameters of a model's layers train in turns.

    Raises:
        Unsupported: if a turn would have more layers than there are, or layers share parameters.
    """
    if turns.size > turns.depth:
        raise Unsupported(f"full: turn_size of {turns.size}: the base model has {turns.depth} decoder layers")
    for place, layer in enumerate(layers):
        for parameter in layer.parameters():
            if hasattr(parameter, _LAYER):
                raise Unsupported(f"full with turns: {turns.kind}: layers of the base model share parameters")
            if parameter.requires_grad:
                setattr(parameter, _LAYER, place)
    setattr(model, _TURNS, turns)


def of(model: Any) -> Turns | None:
    """Return the turns of a model; None if all that trains does so in every step."""
    found: Turns | None = getattr(model, _TURNS, None)
    return found


def in_turns(parameter: Any) -> bool:
    """Return whether a parameter trains in some turns only."""
    return hasattr(parameter, _LAYER)


def begin_step(model: Any, optimizer: Any, step: int) -> None:
    """Let the layers of a step train and no others; nothing happens for a model without turns."""
    turns = of(model)
    if turns is not None:
        hold(model, optimizer, turns.layers(step))


def hold(model: Any, optimizer: Any, layers: frozenset[int]) -> None:
    """Let these layers train, and drop gradients and optimizer state of the others."""
    for parameter in filter(in_turns, model.parameters()):
        own = getattr(parameter, _LAYER) in layers
        parameter.requires_grad_(own)
        if not own:
            parameter.grad = None
            optimizer.state.pop(parameter, None)


def release(model: Any) -> None:
    """Let all that trains in some turn be trainable, as before the first; nothing happens for a model without turns."""
    if of(model) is None:
        return
    for parameter in filter(in_turns, model.parameters()):
        parameter.requires_grad_(True)


@contextmanager
def kept(model: Any, optimizer: Any) -> Iterator[None]:
    """Keep what trains and its optimizer state as they are, whatever is held within the context."""
    own = list(filter(in_turns, model.parameters()))
    trained = [parameter.requires_grad for parameter in own]
    states = {parameter: optimizer.state[parameter] for parameter in own if parameter in optimizer.state}
    try:
        yield
    finally:
        for parameter, was in zip(own, trained, strict=True):
            parameter.requires_grad_(was)
            optimizer.state.pop(parameter, None)
            if parameter in states:
                optimizer.state[parameter] = states[parameter]


def most_at_once(model: Any) -> int | None:
    """Return the most parameters that train in one step, without those of a head for whole texts.

    None for a model without turns.
    """
    turns = of(model)
    if turns is None:
        return None
    sizes, rest, apart = [0] * turns.depth, 0, head.apart(model)
    for parameter in model.parameters():
        if in_turns(parameter):
            sizes[getattr(parameter, _LAYER)] += parameter.numel()
        elif parameter.requires_grad and id(parameter) not in apart:
            rest += parameter.numel()
    if turns.kind == LISA:
        return rest + sum(sorted(sizes)[-turns.size :])
    return rest + max(sum(sizes[place] for place in block) for block in turns.blocks)
