"""Save, load and disable adapters attached by peft, in peft's own format."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from peft.utils import load_peft_weights
from torch import nn

from peftbench.errors import UserError
from peftbench.methods import whole_text_prompts
from peftbench.models import head


def task_type(model: Any) -> str:
    """Return peft's name for what a base model does.

    With a head for whole texts it is ``FEATURE_EXTRACTION``, for which peft leaves the head alone: for ``SEQ_CLS`` it
    would train a copy of the head, and only of modules called ``classifier`` or ``score``.
    """
    return "CAUSAL_LM" if head.placed_in(model) is None else "FEATURE_EXTRACTION"


def save(model: Any, folder: Path) -> None:
    """Write ``adapter_config.json`` and ``adapter_model.safetensors``; without embeddings of the base model."""
    model.save_pretrained(folder, save_embedding_layers=False)


def load(model: nn.Module, folder: Path) -> nn.Module:
    """Return a freshly loaded base model with the adapter of ``folder`` attached, frozen, in its saved dtype.

    peft by itself would round a LLaMA-Adapter to the base model's dtype, and compute a bf16 LoRA in fp32. Of families
    whose checkpoints name modules in another way, it renames saved tensors that have the right name already (laguna's
    shared experts), and leaves them at their start without an error.

    Raises:
        UserError: if a saved tensor has no place in the model.
    """
    base = {id(p) for p in model.parameters()}
    # without torch_device, peft loads the weights onto a GPU if there is one
    tuned = PeftModel.from_pretrained(model, str(folder), torch_device="cpu")
    weights = load_peft_weights(str(folder), device="cpu")
    dtype = next(
        weight.dtype for weight in weights.values() if weight.is_floating_point()
    )  # integer tensors hold positions
    for parameter in tuned.parameters():
        if id(parameter) not in base:
            parameter.data = parameter.data.to(dtype)
    if set_peft_model_state_dict(tuned, weights).unexpected_keys:
        _fill(tuned, weights)
    keep_tied(tuned)
    return whole_text_prompts.prepare(tuned).requires_grad_(False)


@torch.no_grad()
def _fill(tuned: Any, weights: Mapping[str, torch.Tensor]) -> None:
    """Copy saved tensors to those of the same name in what the model would save."""
    own = get_peft_model_state_dict(tuned, save_embedding_layers=False)
    lost = [name for name, weight in weights.items() if name not in own or own[name].shape != weight.shape]
    if lost:
        raise UserError(f"adapter: {len(lost)} saved tensors have no place in the model, such as {lost[0]}")
    for name, weight in weights.items():
        own[name].copy_(weight)


def keep_tied(tuned: Any) -> None:
    """Let programs that tie weights again, such as lm-eval, leave a tuned model as it is.

    Its weights have been tied since the base model was loaded. Tying again would overwrite the wrapper of a tied
    embedding or head, or fail.
    """
    tuned.get_base_model().tie_weights = lambda *_, **__: None


def disabled(model: Any) -> AbstractContextManager[None]:
    """Disable the adapter within the context, so that the model computes what the base model does."""
    if head.placed_in(model) is not None and model.active_peft_config.is_prompt_learning:
        return _without_virtual_tokens(model)  # peft's needs a model that generates
    return _off(model)


@contextmanager
def _off(model: Any) -> Iterator[None]:
    """Switch peft's adapter off, and let what was frozen of it be so afterwards: peft makes all of it trainable."""
    frozen = [p for p in model.parameters() if not p.requires_grad]
    try:
        with model.disable_adapter():
            yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)


@contextmanager
def _without_virtual_tokens(model: Any) -> Iterator[None]:
    before = model.forward
    model.forward = model.get_base_model().forward
    try:
        yield
    finally:
        model.forward = before
