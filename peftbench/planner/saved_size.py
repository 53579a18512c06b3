"""The size of a tuned model's saved weights, without saving them."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from peftbench.methods import METHODS, lora_initialization
from peftbench.models import head
from peftbench.records import Trial


def stored_bytes(tuned: Any, trial: Trial) -> int:
    """Return the bytes of the tensors that a trial would save.

    They are chosen as in ``Method.save``: peft's state dict for a peft model, the whole model if all of it is trained,
    and the trainable parameters otherwise; a head for whole texts in any case.
    """
    from peft import PeftModel, get_peft_model_state_dict

    if isinstance(tuned, PeftModel):
        state = get_peft_model_state_dict(tuned, save_embedding_layers=False)
        tensors = [*state.values(), *(p for _, p in head.parameters(tuned))]
        if lora_initialization.mutates(_start(trial)):  # saved as an update with twice the rank
            tensors += [t for name, t in state.items() if ".lora_A." in name or ".lora_B." in name]
    elif METHODS[trial.method].trains_base and getattr(tuned, "peftbench_partial", None) is None:
        tensors = list(tuned.parameters())
    else:
        tensors = _trained(tuned)
    return sum(t.numel() * t.element_size() for t in tensors)


def _start(trial: Trial) -> str:
    """Return the name of LoRA's initialization; empty if there is none."""
    return str(trial.options.get("initialization") or trial.options.get("init_lora_weights") or "")


def _trained(model: nn.Module) -> list[torch.Tensor]:
    return [p for p in model.parameters() if p.requires_grad]
