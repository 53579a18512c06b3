"""What ``generate`` gets of a batch of prompts, under every method."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora.variants import calculate_alora_offsets


def invoked(model: Any) -> bool:
    """Return whether a model is an aLoRA, which adapts what follows its invocation in the prompt."""
    return isinstance(model, PeftModel) and bool(getattr(model.active_peft_config, "alora_invocation_tokens", None))


def behind(model: Any, ids: torch.Tensor, start: int, beams: int = 1) -> dict[str, list[int | None]]:
    """Return for an aLoRA how many tokens of each text it adapts: those from the invocation in its prompt on.

    peft by itself looks for the invocation in the answer, too, and gives a single number for all beams of a prompt.

    Args:
        model: the model; of another than an aLoRA nothing is returned.
        ids: prompts with what is known of their answers, (b, t).
        start: number of tokens of a prompt.
        beams: number of sequences that are decoded for a prompt.
    """
    if not invoked(model):
        return {}
    found = calculate_alora_offsets(model.peft_config, model.active_adapter, ids[:, :start])
    places = [None if place is None else place + ids.shape[1] - start for place in found]
    return {"alora_offsets": [place for place in places for _ in range(beams)]}


def inputs(model: Any, ids: torch.Tensor, mask: torch.Tensor, beams: int = 1) -> dict[str, Any]:
    """Return the tensors that ``generate`` gets of a batch of texts of equal length.

    peft's models with virtual tokens refuse a mask if the base's code does not name one (xlstm). Texts of equal length
    need none. Families that count positions from their padding token's id (RoBERTa's) get these positions, as in a
    forward pass; ``generate`` would count from 0. aLoRA gets the place of its invocation for each beam; peft gives one
    for each prompt.

    Args:
        model: the model, tuned or not.
        ids: token ids, (b, t).
        mask: attention mask, (b, t), 1 everywhere.
        beams: number of sequences that are decoded for a prompt.
    """
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    taken = inspect.signature(base.forward).parameters
    given: dict[str, Any] = {"input_ids": ids, **behind(model, ids, ids.shape[1], beams)}
    if "attention_mask" in taken or not (isinstance(model, PeftModel) and model.active_peft_config.is_prompt_learning):
        given["attention_mask"] = mask
    own = next((m for m in base.modules() if hasattr(type(m), "create_position_ids_from_input_ids")), None)
    if own is not None and "position_ids" in taken:
        given["position_ids"] = own.create_position_ids_from_input_ids(ids, own.padding_idx)
    return given
