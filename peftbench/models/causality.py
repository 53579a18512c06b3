"""Whether a base is a causal language model: what it says of a token depends on no later one. torch only in ``check``.

Encoders such as BERT have a head for language modelling too, and transformers builds it. Trained on the next token,
they would learn to copy it.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from peftbench.errors import Unsupported

if TYPE_CHECKING:
    import torch

    from peftbench.models.precision import Precision

ENCODERS: Mapping[str, str] = MappingProxyType(
    {"xlm": "causal"}
    | dict.fromkeys(
        (
            *("bert", "bert-generation", "big_bird", "camembert", "data2vec-text", "electra", "ernie", "megatron-bert"),
            *("reformer", "rembert", "roberta", "roberta-prelayernorm", "roc_bert", "roformer", "xlm-roberta"),
            *("xlm-roberta-xl", "xlnet", "xmod"),
        ),
        "is_decoder",
    )
)
"""``model_type`` of what reads in both directions, to the key of its config that makes it read in one."""
_TOKENS = 4
NOISE = 1e-5
"""Largest share of another token's influence that one without any may seem to have. Masked attention gives none at all,
in any precision; what is left room for is a kernel that mixes rounding."""
_NO_GRADIENT = "is being modified inplace"
"""In autograd's words for code that only runs without gradients: Falcon's, and some tuners', on LLM.int8."""
_WHY = "so it is no causal language model, and training on the next token would teach it to copy"


def check_config(config: Any) -> None:
    """Raise ``Unsupported`` for a base that reads in both directions by its config, or is no language model at all.

    Args:
        config: transformers' own, or what a ``config.json`` says; of the latter, only encoders are known, with or
            without a decoder.
    """
    of = config.get if isinstance(config, Mapping) else lambda name: getattr(config, name, None)
    kind = of("model_type")
    key = ENCODERS.get(str(kind))
    if key is not None and not of(key):
        raise Unsupported(f"base: {kind} reads in both directions (its config has no {key}: true), {_WHY}")
    if of("is_encoder_decoder") and not of("is_decoder"):
        raise Unsupported(f"base: {kind} is an encoder with a decoder, and no causal language model")
    if not isinstance(config, Mapping) and "AutoModelForCausalLM" not in (of("auto_map") or {}):
        from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

        if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
            raise Unsupported(f"base: transformers has no causal language model of {kind}")


def check(model: Any, precision: Precision, device: str) -> None:
    """See that logits at a position do not change with a later token, to first order.

    The gradient of the first position's logits with respect to each token's embedding is looked at: of a later token it
    is zero. Changing a token and comparing logits would show the same, but for mixtures of experts and LLM.int8, where
    tokens share products and so each other's rounding.

    Args:
        model: a base as loaded.
        precision: in which it computes.
        device: where it is.

    Raises:
        Unsupported: if they change.
    """
    ahead = reads_ahead(model, precision, device)
    if ahead is not None and ahead > NOISE:
        raise Unsupported(
            f"base: {type(model).__name__} reads in both directions (a later token changes what it says of an earlier "
            f"one), {_WHY}"
        )


def reads_ahead(model: Any, precision: Precision, device: str) -> float | None:
    """Return how much a later token bears on a token's logits, as a share of what the token itself does.

    Args:
        model: a base, or what was made of one.
        precision: in which it computes.
        device: where it is.

    Returns:
        None where gradients do not tell.
    """
    import torch

    config = model.config.get_text_config()
    # from the middle of the vocabulary: the first rows may be special ones, the padding token's is often all zero
    start = max(0, min(config.vocab_size // 2, config.vocab_size - _TOKENS - 1))
    chosen = [token for token in range(start, start + _TOKENS + 1) if token != config.pad_token_id]
    ids = torch.tensor([chosen[:_TOKENS]], device=device)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    found = influence(model, inputs, -_TOKENS, precision, device)  # virtual tokens stand before the first
    return None if found is None or not found[0] else float(found[1:].max() / found[0])


def influence(
    model: Any, inputs: Mapping[str, torch.Tensor], place: int, precision: Precision, device: str
) -> torch.Tensor | None:
    """Return how much each token of a row bears on the logits at a place: the norm of the gradient to its embedding.

    Args:
        model: a base, or what was made of one.
        inputs: what it is called with, of shapes (1, t).
        place: whose logits are looked at.
        precision: in which it computes.
        device: where it is.

    Returns:
        Shape (t,); None where a model's own code keeps gradients from its embeddings, or they are no numbers.
    """
    import torch

    from peftbench.models.load import autocast

    seen: list[torch.Tensor] = []

    def keep(_: Any, __: Any, out: torch.Tensor) -> torch.Tensor:
        seen.append(out.detach().requires_grad_())
        return seen[-1].clone()  # some models change their embeddings in place

    model.eval()
    hook = model.get_input_embeddings().register_forward_hook(keep)
    try:
        with torch.enable_grad(), autocast(precision, device):
            logits = model(**inputs, use_cache=False).logits[0, place].float()
        if not seen or not logits.requires_grad:
            return None
        along = (logits / logits.norm()).detach()  # the length of large logits would overflow in fp16
        found = torch.autograd.grad((logits * along).sum(), seen[0])[0].float().norm(dim=-1).flatten()
        return found if bool(found.isfinite().all()) else None
    except RuntimeError as error:
        if _NO_GRADIENT in str(error):
            return None
        raise
    finally:
        hook.remove()
