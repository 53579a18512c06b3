"""Prefix tuning: trainable keys and values before the input in every layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from peft import PrefixTuningConfig, get_peft_model
from torch import nn

from peftbench.errors import UserError
from peftbench.methods import PREFIX_HIDDEN


def attach(model: nn.Module, rank: int, options: Mapping[str, Any]) -> nn.Module:
    """Let every layer attend to ``rank`` trainable key and value vectors as if they stood before the input.

    By default the prefix P of shape (p, layers x 2 x w), with w the key-value width, is trained itself and starts
    standard normal. With ``reparameterization: mlp`` it is P = W2 tanh(W1 E + b1) + b2, with E of shape (p, w), W1 of
    (h, w) and W2 of (layers x 2 x w, h), and E, W1, b1, W2 and b2 are trained: p w + h (w + 1) + layers 2 w (h + 1)
    parameters. Only P is saved then, so that the parameters trained and stored are two numbers; loaded without the MLP,
    it gives the same logits.

    Args:
        model: the frozen base.
        rank: number of virtual tokens p; p x layers x 2 x w parameters are stored.
        options: ``reparameterization`` (``none`` or ``mlp``), ``hidden_size`` (h, default 512).

    Returns:
        The base wrapped by peft; only the prefix, or what makes it, requires gradients.

    Raises:
        UserError: if a hidden size is given where there is no MLP.

    References:
        Li & Liang 2021, arXiv:2101.00190, section 4; the MLP is that of 4.3, with E as wide as the keys, as in the
        authors' code, where the paper's footnote makes it h wide. Departs from it: no MLP by default.
    """
    hidden, mlp = options.get("hidden_size"), options.get("reparameterization", "none") == "mlp"
    if hidden is not None and not mlp:
        raise UserError(f"prefix_tuning: hidden_size: given {hidden}; allowed: only with reparameterization: mlp")
    width = {"encoder_hidden_size": hidden or PREFIX_HIDDEN} if mlp else {}
    config = PrefixTuningConfig(num_virtual_tokens=rank, prefix_projection=mlp, task_type="CAUSAL_LM", **width)
    return get_peft_model(model, config)
