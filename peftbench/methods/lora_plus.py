"""LoRA+: the learning rate of B is a multiple of that of A."""

from __future__ import annotations

from typing import Any

from peftbench.errors import Unsupported

OPTION = "lora_plus_ratio"


def mark(tuned: Any, ratio: float) -> None:
    """Mark the parameters that train at ``ratio`` times the learning rate, which ``training.optimizers`` reads.

    They are B of every adapted layer and, as in the authors' code and in peft's ``create_loraplus_optimizer``, every
    trainable vector: DoRA's magnitudes, KaSA's diagonals, biases.

    Args:
        tuned: the model with LoRA attached.
        ratio: rate of B / rate of A, 1 or more; 1 marks nothing.

    Raises:
        Unsupported: if no B trains (MiCA), or embeddings are adapted, for which the authors use another rate of their
            own (1e-6).

    References:
        Hayou et al. 2024, arXiv:2402.12354, section 4 (16 is their ratio).
    """
    if ratio == 1:
        return
    named = [(name, p) for name, p in tuned.named_parameters() if p.requires_grad]
    if any("lora_embedding_" in name for name, _ in named):
        raise Unsupported(f"{OPTION} of {ratio:g}: LoRA+ has no rule for A and B of an embedding")
    if not any(".lora_B." in name for name, _ in named):
        raise Unsupported(f"{OPTION} of {ratio:g} has no effect: no B trains, and the ratio is for B")
    for name, parameter in named:
        if ".lora_B." in name or parameter.ndim == 1:
            parameter.peftbench_rate_ratio = ratio
