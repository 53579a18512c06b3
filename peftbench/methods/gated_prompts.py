"""Trainable prompts that an attention layer attends to besides its input, in any family of models.

The base model's attention code is not copied but intercepted where it has the final query, after position encoding,
norm and scaling. That is the call of a function from transformers' table of attention functions, or, in families older
than that table, one of their own methods. The prompts' keys and values come from the same code, run on the prompts
without a position.
"""

from __future__ import annotations

import copy
import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from peftbench.errors import Unsupported
from peftbench.records import failures

NAME = "llama_adapter"
"""Name of the prompts as a child of their attention module, and of our entry in the table of attention functions."""
_ARGUMENTS = ("self", "hidden_states", "attention_mask", "position_embeddings", "position_ids")
_REST = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


class GatedPrompts(nn.Module):
    """The prompts and the gate of one layer; computes g softmax(s q k_p^T) v_p with k_p and v_p from the prompts.

    Shapes: prompt (1, p, d), gate (1,) or (h,), with h the number of query heads.
    """

    def __init__(self, length: int, width: int, heads: int | None, like: torch.Tensor, drawn_on: Any) -> None:
        """Draw the prompts standard normal and set the gate to zero.

        Args:
            length: number of prompts p.
            width: model width d.
            heads: h for one gate tanh(g) per head; None for a single gate g without tanh.
            like: a weight of the layer, whose device and, if floating-point, dtype are used; otherwise fp32.
            drawn_on: the device whose random numbers are used.
        """
        super().__init__()
        dtype = like.dtype if like.is_floating_point() else torch.float32
        self.per_head = heads is not None
        drawn = torch.empty(1, length, width, device=drawn_on, dtype=dtype).normal_()
        self.prompt = nn.Parameter(drawn.to(like.device))
        self.gate = nn.Parameter(torch.zeros(heads or 1, device=like.device, dtype=dtype))
        self.enabled = True
        self.keys_values: tuple[torch.Tensor, torch.Tensor] | None = None
        """Those of the running forward pass. Kept any longer, they would be stale after the next optimizer step."""

    def forward(self, query: torch.Tensor, scaling: float | None = None, softcap: float | None = None) -> torch.Tensor:
        """Return the gated attention of the queries to the prompts, and release the prompts' keys and values.

        Args:
            query: (b, h, t, d_h), as passed to the layer's own attention.
            scaling: s; None for 1 / sqrt(d_h).
            softcap: c if the layer bounds its scores by c tanh(score / c).

        Returns:
            (b, h, t, d_v); zero before training, since the gate is.
        """
        if self.keys_values is None:
            raise RuntimeError(
                "attention ran outside of its module's forward pass, so its prompts have no keys and values"
            )
        groups = query.shape[1] // self.keys_values[0].shape[1]
        key, value = (x.to(query.dtype).repeat_interleave(groups, dim=1) for x in self.keys_values)
        self.keys_values = None
        scores = query @ key.mT * (query.shape[-1] ** -0.5 if scaling is None else scaling)
        if softcap is not None:
            scores = softcap * torch.tanh(scores / softcap)
        gate = torch.tanh(self.gate)[:, None, None] if self.per_head else self.gate
        return (gate * scores.softmax(-1, dtype=torch.float32)).to(value.dtype) @ value


@dataclass(frozen=True)
class Seam:
    """How the code of an attention module is intercepted."""

    join: Callable[[Any], None]
    """Called once with the module, after the prompts were added to it."""
    prepare: Callable[[Any, torch.Tensor, Mapping[str, Any]], None]
    """Called before each forward pass with the module, the prompt tensor and the keyword arguments of the pass."""


def insert(attention: Any, prompts: GatedPrompts) -> None:
    """Let an attention module attend to prompts.

    Raises:
        Unsupported: if its code cannot be intercepted, naming it.
    """
    seam = _seam(attention)
    attention.add_module(NAME, prompts)
    seam.join(attention)
    attention.register_forward_pre_hook(partial(_before, seam), with_kwargs=True)


def _seam(attention: Any) -> Seam:
    kind = type(attention)
    if found := _SEAMS.get(kind.__name__):
        return found
    forward = inspect.unwrap(kind.forward)
    if reads_table(attention):
        _check_arguments(attention, forward)
        return _TABLE
    raise Unsupported(
        f"llama_adapter: the query cannot be intercepted in {kind.__name__}.forward, "
        f"line {forward.__code__.co_firstlineno} of {kind.__module__}: it calls none of transformers' attention "
        f"functions and is not one of {', '.join(sorted(_SEAMS))}"
    )


def reads_table(module: nn.Module) -> bool:
    """Return whether a module's own code calls a function from transformers' table of attention functions."""
    code = getattr(inspect.unwrap(type(module).forward), "__code__", None)
    return code is not None and "ALL_ATTENTION_FUNCTIONS" in code.co_names


def _check_arguments(attention: Any, forward: Any) -> None:
    """Check that a module's code can run on the prompts alone, as far as its arguments say.

    Raises:
        Unsupported: if it needs more than its input, a mask and positions, or another layer's keys and values.
    """
    kind = type(attention).__name__
    needed = [
        n for n, p in inspect.signature(forward).parameters.items() if p.default is p.empty and p.kind not in _REST
    ]
    more = [name for name in needed if name not in _ARGUMENTS]
    if more:
        raise Unsupported(f"{NAME}: the code of {kind} does not run on the prompts alone: it needs {', '.join(more)}")
    if getattr(attention, "is_kv_shared_layer", False):
        raise Unsupported(f"{NAME}: {kind} uses the keys and values of another layer, so prompts have none")


def _before(seam: Seam, attention: Any, arguments: tuple[Any, ...], settings: Mapping[str, Any]) -> None:
    """Forward pre-hook: compute the prompts' keys and values."""
    prompts: GatedPrompts = attention.llama_adapter
    prompts.keys_values = None
    if prompts.enabled:
        hidden = arguments[0] if arguments else settings["hidden_states"]
        seam.prepare(attention, prompts.prompt.to(hidden.dtype), settings)


def _run_on_prompts(attention: Any, prompt: torch.Tensor, settings: Mapping[str, Any]) -> None:
    """Run the module's own code on the prompts, up to the attention function, which keeps their keys and values.

    Biases, norms, quantized and fused projections are therefore those of the layer. The prompts have no position (a
    rotary angle of zero) and no mask, and do not enter the cache.
    """
    place: dict[str, Any] = {}
    if "position_embeddings" in settings:
        place["position_embeddings"] = _no_rotation(attention, settings["position_embeddings"])
    if settings.get("position_ids") is not None:
        place["position_ids"] = torch.zeros(1, prompt.shape[1], dtype=torch.long, device=prompt.device)
    try:
        attention.forward(prompt, attention_mask=None, **place)
    except Exception as error:
        if failures.refusal(error, NAME) is None:
            raise
        raise Unsupported(
            f"{NAME}: the code of {type(attention).__name__} does not run on the prompts alone: {failures.words(error)}"
        ) from error


def _no_rotation(attention: Any, angles: Any) -> Any:
    """Return position embeddings of angle zero, for one position: a cosine of 1 and a sine of 0."""
    if angles is None:
        return None
    if not isinstance(angles, tuple | list) or len(angles) != 2:
        raise Unsupported(f"{NAME}: the position embeddings of {type(attention).__name__} are not a cosine and a sine")
    cos, sin = angles
    return torch.ones_like(cos[:1, :1]), torch.zeros_like(sin[:1, :1])


def _join_table(attention: Any) -> None:
    """Register our entry in transformers' table of attention functions, and prepare a config that selects it."""
    prompts, own = attention.llama_adapter, attention.config
    eager = getattr(sys.modules[type(attention).__module__], "eager_attention_forward", None)
    prompts.attend = ALL_ATTENTION_FUNCTIONS.get_interface(own._attn_implementation, eager)
    prompts.own_config, prompts.our_config = own, copy.deepcopy(own)
    prompts.our_config._attn_implementation = NAME
    ALL_ATTENTION_FUNCTIONS.register(NAME, _attend)


def _prepare_table(attention: Any, prompt: torch.Tensor, settings: Mapping[str, Any]) -> None:
    prompts = attention.llama_adapter
    attention.config = prompts.our_config
    _run_on_prompts(attention, prompt, settings)
    attention.config = prompts.our_config


def _attend(attention: Any, query: Any, key: Any, value: Any, attention_mask: Any, **settings: Any) -> tuple[Any, Any]:
    """Attend to the input as the base model does, and to the prompts: our entry in the table of attention functions.

    Shapes: query, key, value (b, heads, t, d_h), result (b, t, h, d_h). The module's own config is restored before the
    base model's attention function runs, as that may read it.
    """
    prompts: Any = attention.llama_adapter
    attention.config = prompts.own_config
    if not prompts.enabled:  # the forward pass before this one failed
        return prompts.attend(attention, query, key, value, attention_mask, **settings)
    if prompts.keys_values is None:
        prompts.keys_values = key, value
        return query[..., : value.shape[-1]].transpose(1, 2), None
    output, weights = prompts.attend(attention, query, key, value, attention_mask, **settings)
    read = prompts(query, settings.get("scaling"), settings.get("softcap"))
    return output + read.transpose(1, 2).to(output.dtype), weights


def _join_gptj(attention: Any) -> None:
    attention._attn = partial(_attend_gptj, attention, attention._attn)


def _attend_gptj(attention: Any, attend: Any, query: Any, key: Any, value: Any, mask: Any = None) -> tuple[Any, Any]:
    """The counterpart of ``_attend`` for GPT-J's method ``_attn``. Shapes: (b, h, t, d_h), the result too."""
    prompts: GatedPrompts = attention.llama_adapter
    if not prompts.enabled:
        return attend(query, key, value, mask)
    if prompts.keys_values is None:
        prompts.keys_values = key, value
        return query, None
    output, weights = attend(query, key, value, mask)
    return output + prompts(query).to(output.dtype), weights


def _join_fused(split: str, attention: Any) -> None:
    """Keep the query when the fused projection is split, and add to the input of the output projection."""
    attention.llama_adapter.split = getattr(attention, split)
    setattr(attention, split, partial(_split, attention))
    attention.dense.register_forward_pre_hook(partial(_add, attention))


def _split(attention: Any, fused: torch.Tensor) -> tuple[torch.Tensor, ...]:
    prompts = attention.llama_adapter
    parts = prompts.split(fused)
    prompts.query = parts[0]
    return parts


def _add(attention: Any, dense: nn.Module, arguments: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
    """Add the attention to the prompts to the heads' outputs, (b, t, h d_h), before the output projection."""
    prompts = attention.llama_adapter
    query, prompts.query = prompts.query, None
    (output,) = arguments
    if not prompts.enabled:
        return (output,)
    if prompts.heads_last:
        query = query.transpose(1, 2)
    if prompts.rotation is not None:
        rotate = sys.modules[type(attention).__module__].apply_rotary_pos_emb  # type: ignore[attr-defined]
        query, prompts.rotation = rotate(query, query, *prompts.rotation)[0], None
    return (output + prompts(query).transpose(1, 2).flatten(2).to(output.dtype),)


def _prepare_fused(heads_last: bool, attention: Any, prompt: torch.Tensor, settings: Mapping[str, Any]) -> None:
    """Project the prompts and split the result; falcon's parts are (b, t, heads, d_h), bloom's (b, heads, t, d_h)."""
    prompts = attention.llama_adapter
    _, key, value = prompts.split(attention.query_key_value(prompt))
    prompts.keys_values = (key.transpose(1, 2), value.transpose(1, 2)) if heads_last else (key, value)
    rotated = settings.get("alibi") is None  # with ALiBi falcon is also passed rotary angles, which it ignores
    prompts.heads_last, prompts.rotation = heads_last, settings.get("position_embeddings") if rotated else None


_TABLE = Seam(_join_table, _prepare_table)
_SEAMS: Mapping[str, Seam] = {
    "GPTJAttention": Seam(_join_gptj, _run_on_prompts),
    "BloomAttention": Seam(partial(_join_fused, "_reshape"), partial(_prepare_fused, False)),
    "FalconAttention": Seam(partial(_join_fused, "_split_heads"), partial(_prepare_fused, True)),
}
"""Class name of an attention module that does not use the table of attention functions -> how it is intercepted."""
