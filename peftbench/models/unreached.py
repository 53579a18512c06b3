"""The weights that a forward pass of text does not use, found by a pass over a few tokens.

Examples are the cross-attention of a decoder that was trained with an encoder, and the indexers of sparse attention,
which select tokens without a gradient. They cannot train, and an update of them has no effect.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.utils.parametrize import ParametrizationList

from peftbench.models import head
from peftbench.models.storage import is_packed

_DEPENDS = re.compile(r"expert\w*\.\w*\d+\.|compress(?!.*indexer)")
"""Part of the name of a weight whose use depends on the tokens: one of several experts, and compressors of blocks of
keys and values, of which a short text has none (deepseek_v4)."""
_LIBRARIES = ("torch", "bitsandbytes")
"""Packages whose backward passes show what they need as inputs."""
_TOKENS = 5


def names(model: nn.Module, device: str = "cpu") -> frozenset[str]:
    """Return the names of the parameters on which the logits do not depend; empty if a pass over tokens fails.

    A floating-point parameter is used if the logits' graph of gradients contains it, a quantized one if the graph
    contains the output of its module, fused experts if they are read. Where the model's code has a backward pass of its
    own, which hides weights from the graph (reformer's layers), a parameter is also used if its module is called in it.
    Weights whose use depends on the tokens are never returned.

    Args:
        model: a base model before a method is attached; it may consist of fake tensors.
        device: where its weights are.
    """
    ids = torch.zeros(1, _TOKENS, dtype=torch.long, device=device)
    outputs: dict[int, Any] = {}
    hidden: set[int] = set()
    packed = [m for m in model.modules() if any(map(is_packed, m.parameters(recurse=False)))]
    hooks = [m.register_forward_hook(lambda m, _, out: outputs.update({id(m): _node(out)})) for m in packed]
    hooks += [m.register_forward_hook(partial(_note_hidden, hidden)) for m in model.modules()]
    training = model.training
    model.eval()
    try:
        # no backward pass follows, and what autograd saves for one would be fused experts in 16 bits, of every layer
        saves_nothing = torch.autograd.graph.saved_tensors_hooks(lambda _: None, lambda _: None)  # type: ignore[arg-type, return-value]
        with _trainable(model), torch.enable_grad(), saves_nothing, torch.random.fork_rng(devices=[]):
            graph = _graph(head.predictions(model, {"input_ids": ids, "attention_mask": torch.ones_like(ids)}).grad_fn)
    except Exception:  # the checks and the steps of the trial will raise it again, and report it
        return frozenset()
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    used = {id(node.variable) for node in graph if hasattr(node, "variable")}
    if not used:  # the model's own code computes without gradients
        return frozenset()
    if any(_hides(node) for node in graph):
        used |= hidden
    for module in packed:
        # a parametrization gives a frozen weight, which has no gradient itself (4-bit fused experts)
        if outputs.get(id(module)) in graph or (isinstance(module, ParametrizationList) and id(module) in outputs):
            used |= {id(p) for p in module.parameters(recurse=False)}
    return frozenset(n for n, p in model.named_parameters() if id(p) not in used and not depends_on_tokens(n))


def _hides(node: Any) -> bool:
    """Return whether a node of a graph is a backward pass that the model's own code defines."""
    kind = getattr(node, "_forward_cls", None)
    return kind is not None and kind.__module__.partition(".")[0] not in _LIBRARIES


def _note_hidden(hidden: set[int], module: nn.Module, _: Any, output: Any) -> None:
    """Forward hook: add a module's parameters if its output is not in the graph, as within such a backward pass."""
    if _node(output) is None:
        hidden.update(id(p) for p in module.parameters(recurse=False))


def _node(output: Any) -> Any:
    """Return the node of the graph of gradients that made a module's output; None if it has none."""
    return getattr(output[0] if isinstance(output, tuple) else output, "grad_fn", None)


def depends_on_tokens(name: str) -> bool:
    """Return whether the use of a weight depends on the tokens, such as that of one of several experts."""
    return _DEPENDS.search(name) is not None


@contextmanager
def _trainable(model: nn.Module) -> Iterator[None]:
    """Let every floating-point parameter require a gradient within the context."""
    before = [(p, p.requires_grad) for p in model.parameters()]
    try:
        for parameter, _ in before:
            parameter.requires_grad_(not is_packed(parameter))
        yield
    finally:
        for parameter, required in before:
            parameter.requires_grad_(required)


def _graph(node: Any) -> set[Any]:
    """Return a node of a graph of gradients and all nodes that it depends on."""
    waiting, seen = [node], set()
    while waiting:
        found = waiting.pop()
        if found is not None and found not in seen:
            seen.add(found)
            waiting += [other for other, _ in found.next_functions]
    return seen
