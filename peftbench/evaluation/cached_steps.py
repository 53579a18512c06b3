"""Whether a model's cache can be trusted: a token computed from it has the logits of a pass over all tokens.

Some families of transformers keep a state that is not what a whole pass computes (rwkv's, with several prompts in a
batch), or fail when they continue from it. Their answers are decoded without a cache, which is slower and right.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import GenerationConfig

from peftbench.errors import Unsupported
from peftbench.evaluation import decoding
from peftbench.models.load import autocast
from peftbench.models.precision import Precision
from peftbench.records import failures

_STEPS = 3
"""Steps from the cache that are compared; the median decides, since rounding may route one token to another expert."""
_CLOSE = {"float32": 1e-2}
_CLOSE_ELSE = 0.1
"""Largest relative distance of a step's logits, by compute dtype; in 16 bits rounding gives some hundredths."""


@torch.no_grad()
def why_not(model: Any, ids: torch.Tensor, dtype: str, pad_id: int) -> str | None:
    """Return why answers cannot be decoded with the model's cache; None if they can.

    Args:
        model: the model, tuned or not, in evaluation mode, within the context in which it decodes.
        ids: a prompt, (1, t); a second one in the batch is its reverse.
        dtype: name of the compute dtype.
        pad_id: id of the padding token.
    """
    ids = torch.cat([ids, ids.flip(1)])
    config = GenerationConfig(
        max_new_tokens=_STEPS + 1, do_sample=False, use_cache=True, pad_token_id=pad_id, eos_token_id=None
    )
    try:
        made = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            generation_config=config,
            output_logits=True,
            return_dict_in_generate=True,
        )
    except Exception as error:
        if failures.out_of_memory(error):
            raise
        return f"the model does not continue from its cache: {failures.words(error)}"
    whole, start = made.sequences, ids.shape[1]
    gaps = [_distance(model, whole[:, : start + step], made.logits[step]) for step in range(1, _STEPS + 1)]
    gap = sorted(gaps)[_STEPS // 2]
    if gap <= _CLOSE.get(dtype, _CLOSE_ELSE):
        return None
    return f"a step from the model's cache gives logits that are {gap:.0%} apart from those of a whole pass"


def check(model: Any, ids: torch.Tensor, precision: Precision, device: str, pad_id: int) -> None:
    """Check that a model can generate with its cache, without which its speed would be no speed of inference.

    Raises:
        Unsupported: if it cannot.
    """
    with decoding.without_own(model), autocast(precision, device):
        reason = why_not(model, ids[:1].to(device), precision.autocast or precision.weights, pad_id)
    if reason is not None:
        raise Unsupported(reason)


def _distance(model: Any, ids: torch.Tensor, cached: torch.Tensor) -> float:
    """Return the largest relative distance of a step's logits, (2, v), from those of a pass over all tokens before."""
    found = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits[:, -1].float()
    return float(((cached.to(found.device).float() - found).norm(dim=-1) / found.norm(dim=-1)).max())
