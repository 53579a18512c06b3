"""Save, load and switch off what peft attached, in peft's own format."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from peft import PeftModel, set_peft_model_state_dict
from peft.utils import load_peft_weights
from torch import nn


def save(model: Any, folder: Path) -> None:
    """Write ``adapter_config.json`` and ``adapter_model.safetensors``; embeddings of the base are never written."""
    model.save_pretrained(folder, save_embedding_layers=False)


def load(model: nn.Module, folder: Path) -> nn.Module:
    """Return a freshly loaded base with the adapter of ``folder`` attached, frozen, in the dtype in which it was saved.

    peft alone would round a LLaMA-Adapter to the base's dtype, and compute a bf16 LoRA in fp32.
    """
    base = {id(p) for p in model.parameters()}
    # by itself peft reads the weights onto a GPU wherever there is one
    tuned = PeftModel.from_pretrained(model, str(folder), torch_device="cpu")
    weights = load_peft_weights(str(folder), device="cpu")
    dtype = next(weight.dtype for weight in weights.values() if weight.is_floating_point())  # others are places
    for parameter in tuned.parameters():
        if id(parameter) not in base:
            parameter.data = parameter.data.to(dtype)
    set_peft_model_state_dict(tuned, weights)
    return tuned.requires_grad_(False)


def disabled(model: Any) -> AbstractContextManager[None]:
    """Switch what peft attached off within the context: the model is the base again."""
    off: AbstractContextManager[None] = model.disable_adapter()
    return off
