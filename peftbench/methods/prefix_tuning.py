"""Prefix tuning: trainable keys and values that precede the input's in every layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from peft import PrefixTuningConfig, get_peft_model
from torch import nn

from peftbench.errors import UserError
from peftbench.methods import PREFIX_HIDDEN, peft_checkpoint, prompt_sizes, whole_text_prompts


def attach(model: nn.Module, rank: int, options: Mapping[str, Any]) -> nn.Module:
    """Let every layer attend to ``rank`` trainable key and value vectors, as if they preceded the input.

    By default the prefix P of shape (p, layers x 2 x w), with w the width of keys and values, is trained directly and
    initialized standard normal. With ``reparameterization: mlp`` it is P = W2 tanh(W1 E + b1) + b2, with E of shape
    (p, w), W1 of (h, w) and W2 of (layers x 2 x w, h). Then E, W1, b1, W2 and b2 are trained, p w + h (w + 1) +
    layers 2 w (h + 1) parameters, but only P is saved, so the numbers of trained and saved parameters differ. A prefix
    loaded without the MLP gives the same logits.

    Args:
        model: the frozen base model.
        rank: number of virtual tokens p; p x layers x 2 x w parameters are saved.
        options: ``reparameterization`` (``none`` or ``mlp``), ``hidden_size`` (h, default 512).

    Returns:
        The base model wrapped by peft; only the prefix, or the tensors it is computed from, require gradients.

    Raises:
        UserError: if a hidden size is given without the MLP.

    References:
        Li & Liang 2021, arXiv:2101.00190, section 4. The MLP is that of section 4.3, with E as wide as the keys as in
        the authors' code; in the paper's footnote it is h wide. Differs from the paper: no MLP by default.
    """
    hidden, mlp = options.get("hidden_size"), options.get("reparameterization", "none") == "mlp"
    if hidden is not None and not mlp:
        raise UserError(f"prefix_tuning: hidden_size: given {hidden}; allowed: only with reparameterization: mlp")
    width = {"encoder_hidden_size": hidden or PREFIX_HIDDEN} if mlp else {}
    sizes = prompt_sizes.for_keys_and_values(model) | width
    task = peft_checkpoint.task_type(model)
    config = PrefixTuningConfig(num_virtual_tokens=rank, prefix_projection=mlp, task_type=task, **sizes)
    return whole_text_prompts.prepare(get_peft_model(model, config))
