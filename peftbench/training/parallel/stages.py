"""A causal language model cut at its decoder layers into stages, each of which holds its own weights alone.

A stage is the model's own forward pass: what belongs to other stages is replaced by modules that return what they are
given, and hidden states come in as ``inputs_embeds``. So masks and positions are made in every stage as in the whole
model. Whether that is the same function is tried once on the whole model, before it is cut.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from peftbench.errors import Unsupported
from peftbench.models.layers import decoder_layers_for
from peftbench.models.load import autocast
from peftbench.models.precision import Precision

_TOLERANCE = 1e-3
"""Largest difference of logits, in their standard deviations, for which stages are the same function as the model."""


class Elsewhere(nn.Module):
    """In the place of a module that another stage holds: returns its first input."""

    def forward(self, x: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        """Return the input."""
        return x


@dataclass(frozen=True)
class Place:
    """A module that is not in every stage, and where it hangs."""

    parent: nn.Module
    name: str
    module: nn.Module
    stage: int


class Stage(nn.Module):
    """One stage of a model as a module: token ids or hidden states in, hidden states or logits out.

    Shapes: token ids (b, t), hidden states (b, t, d), logits (b, t, v).
    """

    def __init__(self, model: Any, first: bool, precision: Precision, device: str) -> None:
        super().__init__()
        self.model = model
        self._enters = "input_ids" if first else "inputs_embeds"
        self._precision, self._device = precision, device

    def forward(self, x: torch.Tensor, **masks: torch.Tensor) -> torch.Tensor:
        """Run the stage.

        Args:
            x: what enters it.
            **masks: ``attention_mask`` or ``position_ids``, of shape (b, t).
        """
        with autocast(self._precision, self._device):
            given: torch.Tensor = self.model(**{self._enters: x}, **masks, use_cache=False).logits
        return given


def places(base: Any, count: int) -> list[Place]:
    """Return the modules that are not in every stage, of a base model that may have a method attached.

    Decoder layers are divided evenly in number; what comes before them is in the first stage, what follows in the last.
    The order is transformers' plan for the model (``base_model_pp_plan``).

    Raises:
        Unsupported: if the order of the base model's parts is not known, or it has fewer layers than stages.
    """
    layers = decoder_layers_for("pp", base)
    depth = len(layers)
    if depth < count:
        raise Unsupported(f"pp: {count} stages, but the base has only {depth} decoder layers")
    decoder = base.get_decoder() if hasattr(base, "get_decoder") else None
    plan = list(getattr(base.config.get_text_config(), "base_model_pp_plan", None) or {})
    cut = next((i for i, name in enumerate(plan) if getattr(decoder, name, None) is layers), None)
    if cut is None:
        raise Unsupported(f"pp: transformers does not say in which order the parts of a {type(base).__name__} run")
    heads = [name for name in type(base)._pp_plan or {} if isinstance(getattr(base, name, None), nn.Module)]
    return [
        *(_place(decoder, name, 0) for name in plan[:cut]),
        *(Place(layers, str(i), layer, i * count // depth) for i, layer in enumerate(layers)),
        *(_place(decoder, name, count - 1) for name in plan[cut + 1 :]),
        *(_place(base, name, count - 1) for name in heads),
    ]


def _place(parent: Any, name: str, stage: int) -> Place:
    return Place(parent, name, getattr(parent, name), stage)


def holders(model: nn.Module, found: Sequence[Place], count: int) -> dict[nn.Parameter, frozenset[int]]:
    """Return the stages that hold each parameter: several for tied ones, all for those of no place."""
    held: dict[nn.Parameter, set[int]] = {}
    for place in found:
        for parameter in place.module.parameters():
            held.setdefault(parameter, set()).add(place.stage)
    return {p: frozenset(held.get(p, range(count))) for p in model.parameters()}


def take_out(found: Sequence[Place], stage: int) -> None:
    """Replace what other stages hold. Embeddings stay: where hidden states come in, nothing calls them."""
    for place in found:
        if place.stage != stage and not isinstance(place.module, nn.Embedding):
            setattr(place.parent, place.name, Elsewhere())


def put_back(found: Sequence[Place]) -> None:
    """Put every module back."""
    for place in found:
        setattr(place.parent, place.name, place.module)


@contextmanager
def _as_stage(found: Sequence[Place], stage: int) -> Iterator[None]:
    take_out(found, stage)
    try:
        yield
    finally:
        put_back(found)


@torch.no_grad()
def dtypes(model: Any, found: Sequence[Place], count: int, precision: Precision, device: str) -> list[torch.dtype]:
    """Return the dtype of what each stage gives, after checking that the stages together are the whole model.

    Args:
        model: the whole model with its method.
        found: its places.
        count: number of stages.
        precision: the precision of its forward pass.
        device: where it is.

    Raises:
        Unsupported: if the logits of the stages are not those of the model.
    """
    x, mask = _probe(model, device)
    training = model.training
    model.eval()
    expected = Stage(model, True, precision, device)(x, attention_mask=mask)
    given = []
    try:
        for stage in range(count):
            with _as_stage(found, stage):
                x = Stage(model, stage == 0, precision, device)(x, attention_mask=mask)
            given.append(x.dtype)
        difference = float((x.float() - expected.float()).abs().max() / expected.float().std())
    except Exception as error:  # of the model's own code, which does not expect to be cut
        raise Unsupported(f"pp: a {type(model).__name__} cannot be cut into stages: {error}") from error
    finally:
        model.train(training)
    if not difference <= _TOLERANCE:
        raise Unsupported(
            f"pp: cut into stages, the model is another function: its logits differ by {difference:.1g} of their "
            "standard deviation"
        )
    return given


def _probe(model: Any, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return token ids and a mask of two rows, the second with padding."""
    ids = torch.arange(16, device=device).reshape(2, 8) % model.config.get_text_config().vocab_size
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    return ids, mask
