"""Gradient checkpointing: which activations are computed again in the backward pass instead of being kept.

``train.gradient_checkpointing`` is ``true`` for every decoder layer, a number n for every n-th of them, or
``selective`` for all of every layer but its matrix products. What is computed again gives the same values, with the
same random state, so that losses and gradients are the same bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from typing import Any

from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts

from peftbench.errors import Unsupported
from peftbench.measure import ledger
from peftbench.models.layers import decoder_layers
from peftbench.training.matmuls import is_product, is_thin

SELECTIVE = "selective"

Kind = bool | int | str
"""A value of ``train.gradient_checkpointing``."""


def enable(model: Any, kind: Kind) -> None:
    """Let a model's layers compute their activations again in the backward pass.

    Args:
        model: a base model with a method attached.
        kind: True for every decoder layer; n for the layers 0, n, 2n and so on; ``selective`` for all of every layer
            but what ``keeps`` names.

    Raises:
        Unsupported: if the model cannot do it, or not in some layers alone, or not in parts of a layer.
    """
    layers = [] if kind is True else _layers(model, kind)
    settings: dict[str, Any] = {"use_reentrant": False}
    if kind == SELECTIVE:
        settings["context_fn"] = _contexts
    # the older name until transformers 5.18; peft's models pass both on to the base model
    new = getattr(model, "activation_checkpointing_enable", None)
    try:
        (new or model.gradient_checkpointing_enable)(settings)
    except ValueError as error:  # transformers' word for a model whose code cannot
        raise Unsupported(f"gradient_checkpointing: {kind}: {error} Use gradient_checkpointing: false") from error
    for place, layer in enumerate(layers):
        if kind != SELECTIVE:
            layer.gradient_checkpointing = place % int(kind) == 0
    model.enable_input_require_grads()  # otherwise a frozen embedding cuts the graph


def keeps(func: Any, args: Any, kwargs: Any) -> bool:
    """Return whether ``selective`` keeps what an operator gives, in place of computing it again.

    These are the operators that cost most: products of matrices, those of quantized weights and of experts among them,
    convolutions, and fused attention, with what its backward pass needs. Not kept are norms, activation functions,
    products element by element, changes of dtype, copies, dequantized weights, and the softmax of attention that is not
    fused. Two kinds of products are computed again too: thin ones, which take little work for much memory, as LoRA's
    with B; and attention with dropout, as later dropout in the layer would draw other random numbers otherwise.
    """
    return is_product(func) and not is_thin(func, args) and not _drops(func, args, kwargs)


def is_selective(module: Any) -> bool:
    """Return whether a module that computes activations again keeps some of them."""
    func = getattr(module, "_gradient_checkpointing_func", None)
    return getattr(func, "keywords", {}).get("context_fn") is _contexts


def _layers(model: Any, kind: Kind) -> list[Any]:
    """Return the decoder layers of which each decides for itself whether it is computed again."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    where = f"gradient_checkpointing: {kind}"
    try:
        layers = list(decoder_layers(model))
    except LookupError as error:
        raise Unsupported(f"{where}: {error}; use gradient_checkpointing: true") from None
    own = [layer for layer in layers if any(True for _ in layer.parameters())]  # a stage of a pipeline lacks some
    if not all(isinstance(layer, GradientCheckpointingLayer) for layer in own):
        raise Unsupported(
            f"{where}: the model's own code decides what is computed again, as its layers are no "
            "GradientCheckpointingLayer of transformers; use gradient_checkpointing: true"
        )
    return layers


def _contexts() -> tuple[Any, Any]:
    """Return the contexts of a layer's forward pass and of its repetition."""
    forward, again = create_selective_checkpoint_contexts(_policy)
    return _counted(forward), again


@contextmanager
def _counted(forward: Any) -> Iterator[None]:
    """Run a layer's forward pass; the memory ledger counts what is kept as activations."""
    with ledger.Keeping(keeps) if ledger.is_active() else nullcontext(), forward:
        yield


def _policy(_: Any, func: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if keeps(func, args, kwargs) else CheckpointPolicy.PREFER_RECOMPUTE


def _drops(func: Any, args: Any, kwargs: Any) -> bool:
    """Return whether an attention operator draws random numbers."""
    place = _dropout_place(func)
    if place is None:
        return False
    given = kwargs.get("dropout_p", args[place] if place < len(args) else 0.0)
    return bool(given)


@cache
def _dropout_place(func: Any) -> int | None:
    schema = getattr(func, "_schema", None)
    names = [argument.name for argument in schema.arguments] if schema else []
    return names.index("dropout_p") if "dropout_p" in names else None
