"""LLaMA-Adapter: trainable prompts in the attention of the topmost layers, with a gate initialized to zero."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import nn

from peftbench.errors import Unsupported, UserError
from peftbench.methods import peft_checkpoint
from peftbench.methods.gated_prompts import NAME, GatedPrompts, insert, reads_table
from peftbench.models.layers import check_layers, decoder_layers_for, switched_off, width
from peftbench.models.origin import drawing_device

_UNADAPTED_LAYERS = 2
_ATTENTION = ("self_attn", "attn", "attention", "self_attention")
_PEFTS = ("llama", "mistral")
"""Families for which peft computes the same function, so that adapters are saved in peft's format."""
_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PEFT_TYPE, _OUR_TYPE = "ADAPTION_PROMPT", "LLAMA_ADAPTER"


def attach(model: Any, rank: int, options: Mapping[str, Any]) -> Any:
    """Let the topmost layers attend to ``rank`` trainable prompts through a gate initialized to zero.

    In each adapted layer the output of the heads, before the output projection, becomes
    ``attention(x) + g softmax(s q k_p^T) v_p``. The query q and the scale s are the layer's own. Its own code also
    computes the keys k_p and values v_p from prompts of shape (rank, d), without a position. The prompts are drawn
    standard normal. The gate g starts at zero, so the first forward pass equals the base model's.

    Args:
        model: the frozen base model.
        rank: prompt length.
        options: ``layers``: number of topmost layers that are adapted; default all but two, as the paper's 30 of 32.
            ``gate``: ``per_layer`` for one factor g per layer, ``per_head`` for a factor tanh(g) per head.

    Returns:
        The same model; only prompts and gates require gradients.

    Raises:
        Unsupported: if the base model has fewer layers, or a layer's attention cannot be intercepted, naming it.

    References:
        Zhang et al. 2023, arXiv:2303.16199, section 3. The tanh and the gate per head are found only in the authors'
        code. The default, one gate without tanh, is peft's (``AdaptionPromptConfig``). We differ from peft where it
        differs from the paper: on gpt2 it adds the attention to the prompts after the output projection, unprojected;
        it adds the bias of the output projection a second time; and it scales by 1 / sqrt(d_h) also in layers that
        scale differently.
    """
    every = decoder_layers_for("llama_adapter", model)
    attentions = [_attention(model, index, layer) for index, layer in enumerate(every)]
    layers = max(1, len(attentions) - _UNADAPTED_LAYERS) if options["layers"] is None else options["layers"]
    check_layers(layers, len(attentions), "llama_adapter")
    model.requires_grad_(False)
    settings = model.config.get_text_config()
    heads = settings.num_attention_heads if options["gate"] == "per_head" else None
    for attention in attentions[-layers:]:
        like = next(attention.parameters())
        insert(attention, GatedPrompts(rank, width(model), heads, like, drawing_device(model, like.device)))
    model.peftbench_adapter = {"adapter_len": rank, "adapter_layers": layers, "gate": options["gate"]}
    return model


def _attention(model: Any, index: int, layer: nn.Module) -> Any:
    """Return the attention module of a decoder layer.

    Raises:
        Unsupported: if it has none, naming its modules.
    """
    children = dict(layer.named_children())
    name = next((n for n in _ATTENTION if n in children), None)
    if name is None:
        raise Unsupported(
            f"llama_adapter: layer {index} of {type(model).__name__}, {type(layer).__name__}, has no attention "
            f"({', '.join(_ATTENTION)}); it has {', '.join(children)}"
        )
    inside = [m for m in children[name].modules() if reads_table(m)]  # an encoder's attention holds its output, too
    return inside[0] if len(inside) == 1 else children[name]


def _prompts(model: nn.Module) -> Iterator[tuple[str, GatedPrompts]]:
    """Yield the name of each adapted attention module with its prompts."""
    return ((n.removesuffix(f".{NAME}"), m) for n, m in model.named_modules() if isinstance(m, GatedPrompts))


def disabled(model: nn.Module) -> AbstractContextManager[None]:
    """Switch the prompts off within the context, so that the model computes what the base model does."""
    return switched_off(module for _, module in _prompts(model))


def save(model: Any, folder: Path) -> None:
    """Write ``adapter_config.json`` and ``adapter_model.safetensors``.

    Tensors have peft's names. For a gate per layer on llama and mistral, peft computes the same function; the config
    is then peft's too, and peft can load the folder. Otherwise the config has a ``peft_type`` unknown to peft.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = dict(model.peftbench_adapter)
    if model.config.model_type in _PEFTS and config["gate"] == "per_layer":
        del config["gate"]
        config |= {"peft_type": _PEFT_TYPE, "target_modules": "self_attn", "inference_mode": True}
    else:
        config |= {"peft_type": _OUR_TYPE, "library": "peftbench"}
    config |= {"task_type": peft_checkpoint.task_type(model), "base_model_name_or_path": model.name_or_path}
    (folder / _CONFIG).write_text(json.dumps(config, indent=2) + "\n")
    state = {
        key: tensor.detach().cpu().contiguous()
        for name, module in _prompts(model)
        for key, tensor in zip(_keys(name), (module.prompt, module.gate), strict=True)
    }
    save_file(state, folder / _WEIGHTS, metadata={"format": "pt"})


def _keys(name: str) -> tuple[str, str]:
    """Return the names of a layer's prompt and gate in a saved folder."""
    return f"base_model.model.{name}.adaption_prompt", f"base_model.model.{name}.adaption_gate"


def load(model: Any, folder: Path) -> Any:
    """Return a freshly loaded base model with the prompts of ``folder`` attached, frozen, in their saved dtype.

    Raises:
        UserError: if peft saved the folder for a family in which it computes a different function.
    """
    config = json.loads((folder / _CONFIG).read_text())
    if config["peft_type"] == _PEFT_TYPE and model.config.model_type not in _PEFTS:
        raise UserError(f"{folder}: peft's LLaMA-Adapter computes a different function on {model.config.model_type}")
    options = {"layers": config["adapter_layers"], "gate": config.get("gate", "per_layer")}
    attach(model, config["adapter_len"], options)
    state = load_file(folder / _WEIGHTS)
    for name, module in _prompts(model):
        for key, parameter in zip(_keys(name), (module.prompt, module.gate), strict=True):
            parameter.data = state[key].to(parameter.device)
    return model.requires_grad_(False)
