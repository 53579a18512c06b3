"""LLaMA-Adapter on a tiny model of each family, its gates open."""

from __future__ import annotations

import torch

from peftbench.methods import llama_adapter
from peftbench.methods.gated_prompts import GatedPrompts
from tests.support import architectures

FAMILIES = list(architectures.CONFIGS)
OPTIONS = {"layers": 2, "gate": "per_layer"}


def attached(family, options=OPTIONS, seed=0, **changes):
    """Return a tiny model of a family in memory, with prompts whose gates are open and biases that are not zero."""
    tuned = architectures.build(family, **changes)
    torch.manual_seed(seed)
    for name, parameter in tuned.named_parameters():
        if name.endswith("bias"):
            parameter.data.normal_(std=0.3)
    llama_adapter.attach(tuned, 4, options)
    return open_gates(tuned)


def open_gates(tuned):
    for index, module in enumerate(prompts(tuned)):
        module.gate.data.copy_(torch.linspace(0.5, 1.5, module.gate.numel()).view_as(module.gate) + index)
    return tuned


def prompts(tuned):
    return [m for m in tuned.modules() if isinstance(m, GatedPrompts)]
