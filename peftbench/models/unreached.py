"""The weights that a forward pass of text does not use, found by a pass over a few tokens.

Examples are the cross-attention of a decoder that was trained with an encoder, and the indexers of sparse attention,
which select tokens without a gradient. They cannot train, and an update of them has no effect.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

_DEPENDS = re.compile(r"expert\w*\.\w*\d+\.|compress(?!.*indexer)")
"""Part of the name of a weight whose use depends on the tokens: one of several experts, and compressors of blocks of
keys and values, of which a short text has none (deepseek_v4)."""
_TOKENS = 5


def names(model: nn.Module, device: str = "cpu") -> frozenset[str]:
    """Return the names of the parameters on which the logits do not depend; empty if a pass over tokens fails.

    A floating-point parameter is used if the logits' graph of gradients contains it, a quantized one if its module is
    called. Weights whose use depends on the tokens are never returned.

    Args:
        model: a base model before a method is attached; it may consist of fake tensors.
        device: where its weights are.
    """
    ids = torch.zeros(1, _TOKENS, dtype=torch.long, device=device)
    called: set[int] = set()
    hooks = [m.register_forward_pre_hook(lambda m, _: called.add(id(m))) for m in model.modules()]
    training = model.training
    model.eval()
    try:
        with _trainable(model), torch.enable_grad(), torch.random.fork_rng(devices=[]):
            logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits
            used = {id(leaf) for leaf in _leaves(logits.grad_fn)}
    except Exception:  # the checks and the steps of the trial will raise it again, and report it
        return frozenset()
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    if not used:  # the model's own code computes without gradients
        return frozenset()
    for module in model.modules():
        if id(module) in called:
            used |= {id(p) for p in module.parameters(recurse=False) if not p.is_floating_point()}
    return frozenset(n for n, p in model.named_parameters() if id(p) not in used and not depends_on_tokens(n))


def depends_on_tokens(name: str) -> bool:
    """Return whether the use of a weight depends on the tokens, such as that of one of several experts."""
    return _DEPENDS.search(name) is not None


@contextmanager
def _trainable(model: nn.Module) -> Iterator[None]:
    """Let every floating-point parameter require a gradient within the context."""
    before = [(p, p.requires_grad) for p in model.parameters()]
    try:
        for parameter, _ in before:
            parameter.requires_grad_(parameter.is_floating_point())
        yield
    finally:
        for parameter, required in before:
            parameter.requires_grad_(required)


def _leaves(node: Any) -> Iterator[torch.Tensor]:
    """Yield the tensors without a history on which the output of a node of the graph depends."""
    waiting, seen = [node], set()
    while waiting:
        found = waiting.pop()
        if found is None or found in seen:
            continue
        seen.add(found)
        if hasattr(found, "variable"):
            yield found.variable
        waiting += [other for other, _ in found.next_functions]
