"""Default learning rates for any base model, by method and width: power laws fitted to published rates. No torch.

The rates in the methods' records are tuned on the built-in base model. For other base models the default is

    rate = the method's constant x (hidden size / 4096) ** -0.70

and LoRA's is lower for a large ``alpha`` and for initializations that start in the directions of the base model's own
weights. ``tools/validation/learning_rate_rule.py`` computes every number here from published tables and prints how far
each source is from it; ``docs/design/default_learning_rates.md`` explains the choices. A rate of this rule is untuned.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

REFERENCE_WIDTH = 4096
"""Hidden size at which the constants are given: that of most 7B and 8B models."""
WIDTH_EXPONENT = -0.70
"""Exponent of the hidden size: 15 dense models of 2,048 to 8,192 in tinker-cookbook's sweep (9dfcc3a2)."""
EXPERTS_WIDTH = 5600
"""The hidden size that a mixture of experts counts as: the best rates of 10 of them in that sweep follow no width."""
LORA_ALPHA = 32.0
"""LoRA's alpha in that sweep. No published sweep shows a higher rate for a smaller alpha."""
ALPHA_EXPONENT = -0.79
"""Exponent of alpha / 32 above 32: arXiv:2602.04998 (alpha 128), arXiv:2405.09673 (alpha 512)."""
INITIALIZATIONS: Mapping[str, float] = MappingProxyType({"pissa": 0.1, "olora": 0.055, "lora_ga": 0.055})
"""Factors of LoRA's rate: the best rates on Qwen3-0.6B in arXiv:2602.04998 (2e-5, 1.1e-5 and 1.1e-5,
LoRA's is 2e-4)."""
SEARCH_FACTORS = (0.1, 0.3, 1.0, 3.0, 10.0)
"""Candidates of ``learning_rate: search``, as multiples of the default, which is AdamW's whatever the optimizer."""
RULE = (
    "width to the power -0.7, LoRA ten times full fine-tuning, constants from published sweeps and recipes: "
    "docs/design/default_learning_rates.md"
)
"""The rule in words, for notes under a table."""


@dataclass(frozen=True)
class Law:
    """A method's constant and where it comes from."""

    constant: float
    """Learning rate at a hidden size of 4,096."""
    spread: float
    """The sources' rates lie within this factor of the law."""
    sources: str


LAWS: Mapping[str, Law] = MappingProxyType(
    {
        "lora": Law(4e-4, 7.9, "tinker-cookbook's sweep (9dfcc3a2) at rank 8; compared with 10 recipes"),
        "full": Law(4.1e-5, 5.0, "LoRA's / 9.8: LoRA Without Regret (Thinking Machines Lab 2025); 6 recipes"),
        "small": Law(4.2e-4, 8.3, "BitFit in arXiv:2106.09685 (GPT-3) and in PEFT-Bench (Llama-3-8B)"),
        "adapter": Law(1.6e-4, 78.0, "arXiv:1902.00751, arXiv:2106.09685, LLM-Adapters, PEFT-Bench"),
        "llama_adapter": Law(4.1e-3, 3.6, "arXiv:2303.16199 (the authors' code), lit-llama, peft's comparison"),
        "prefix": Law(8.2e-4, 37.0, "arXiv:2106.09685 (GPT-3), LLM-Adapters, peft's comparison"),
        "prefix_mlp": Law(1.9e-5, 1.9, "arXiv:2101.00190 (GPT-2, BART), PEFT-Bench"),
        "prompt": Law(5.7e-3, 70.0, "arXiv:2104.08691 (T5, Adafactor), arXiv:2106.09685 (GPT-3), PEFT-Bench, peft"),
    }
)
"""The laws by what trains. ``small`` is full fine-tuning of norms or biases alone."""


def law_of(method: str, options: Mapping[str, Any]) -> str | None:
    """Return which of ``LAWS`` holds for a method with its options; None if there is none."""
    if method == "full":
        modules = options.get("modules")
        parts = [modules] if isinstance(modules, str) else modules
        return "small" if parts and set(parts) <= {"norms", "biases"} else "full"
    if method == "prefix_tuning":
        return "prefix_mlp" if options.get("reparameterization") == "mlp" else "prefix"
    known = {"lora": "lora", "qlora": "lora", "prompt_tuning": "prompt"}
    return known.get(method, method if method in LAWS else None)


def rate(method: str, options: Mapping[str, Any], rank: int | None, width: int) -> float | None:
    """Return a method's default peak learning rate, to two digits; None if there is no law for the method.

    Args:
        method: the method's name.
        options: its own settings, with LoRA's ``alpha`` as a number.
        rank: LoRA's r.
        width: the base model's hidden size, or ``EXPERTS_WIDTH``.
    """
    name = law_of(method, options)
    if name is None:
        return None
    found = LAWS[name].constant * (width / REFERENCE_WIDTH) ** WIDTH_EXPONENT
    return two_digits(found * _lora_factor(options, rank or 1) if name == "lora" else found)


def _lora_factor(options: Mapping[str, Any], rank: int) -> float:
    """Return the factor for LoRA's scale and initialization. rsLoRA's scale is that of alpha times the root of r."""
    alpha = options["alpha"] * (math.sqrt(rank) if options.get("rslora") else 1.0)
    factor: float = max(1.0, alpha / LORA_ALPHA) ** ALPHA_EXPONENT
    return factor * INITIALIZATIONS.get(str(options.get("initialization")), 1.0)


def two_digits(value: float) -> float:
    """Return a number rounded to two significant digits."""
    return float(f"{value:.1e}")


def candidates(default: float) -> tuple[float, ...]:
    """Return the learning rates that ``learning_rate: search`` tries around a default, in ascending order."""
    return tuple(two_digits(factor * default) for factor in SEARCH_FACTORS)
