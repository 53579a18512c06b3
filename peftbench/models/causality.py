"""Check that a base model is a causal language model: its logits at a position depend on no later token.

With a head for whole texts it may read in both directions, but no padding (``reads_padding``).

transformers also builds encoders such as BERT with a language modelling head. Trained to predict the next token, which
they can see, they would learn to copy it. torch is imported only in the functions that need it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from peftbench.errors import Unsupported

if TYPE_CHECKING:
    import torch

    from peftbench.models.precision import Precision

ENCODERS: Mapping[str, tuple[str, Any]] = MappingProxyType(
    {"xlm": ("causal", True), "xlnet": ("attn_type", "uni")}
    | dict.fromkeys(
        (
            *("bert", "bert-generation", "big_bird", "camembert", "data2vec-text", "electra", "ernie", "megatron-bert"),
            *("reformer", "rembert", "roberta", "roberta-prelayernorm", "roc_bert", "roformer", "xlm-roberta"),
            *("xlm-roberta-xl", "xmod"),
        ),
        ("is_decoder", True),
    )
)
"""``model_type`` of a bidirectional model -> the config key that makes its attention causal, and its value for that."""
_FAMILY = re.compile(r'^\s+\("([\w-]+)",', re.MULTILINE)
_TOKENS = 4
NOISE = 1e-5
"""Largest influence of a later token that still counts as none, relative to the token's own. Masked attention gives
exactly 0 in every precision; the tolerance allows for kernels in which tokens share rounding errors."""
_NO_GRADIENT = ("is being modified inplace", "make sure to use `model.train()`")
"""Parts of errors of code that runs without gradients only, such as Falcon's and some tuners' on LLM.int8, or with them
only while it trains (reformer)."""
_CAUSAL, _CLASSIFY = "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES", "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES"
"""The tables of transformers with causal language models, and with models with a head for whole texts."""
_WHY = "so it is not a causal language model, and training it on the next token would teach it to copy"


def check_config(config: Any, head: bool = False) -> None:
    """Check by its config that a base model is a causal language model, or one that can have a head for whole texts.

    Args:
        config: a transformers config, or the mapping read from a ``config.json``. For a mapping, only known encoders
            and encoder-decoder models are refused.
        head: whether it gets a head for whole texts.

    Raises:
        Unsupported: if the model attends in both directions, or is not a language model.
    """
    of = config.get if isinstance(config, Mapping) else lambda name: getattr(config, name, None)
    kind = of("model_type")
    if head:
        _check_can_classify(config, of)
        return
    key, value = ENCODERS.get(str(kind), ("", None))
    if key and (of(key) or False) != value:
        raise Unsupported(
            f"base: {kind} reads in both directions (its config has no {key}: {str(value).lower()}), {_WHY}; a task of "
            "kind: classification gives it a head for whole texts"
        )
    if of("is_encoder_decoder") and not of("is_decoder"):
        raise Unsupported(f"base: {kind} is an encoder-decoder model, not a causal language model")
    if isinstance(config, Mapping) and "AutoModelForCausalLM" not in (of("auto_map") or {}):
        known, causal = _families(_CAUSAL)
        if kind in known - causal:
            raise Unsupported(_no_model(kind))
    if not isinstance(config, Mapping) and "AutoModelForCausalLM" not in (of("auto_map") or {}):
        from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

        if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
            raise Unsupported(_no_model(kind))


def _no_model(kind: Any) -> str:
    known, classify = _families(_CLASSIFY)
    hint = "; a task of kind: classification gives it a head for whole texts" if kind in known & classify else ""
    return f"base: transformers has no causal language model of {kind}{hint}"


def _check_can_classify(config: Any, of: Any) -> None:
    """Check that transformers can put a head for whole texts on a model that reads a text once."""
    kind = of("model_type")
    if of("is_encoder_decoder"):
        raise Unsupported(
            f"base: {kind} is an encoder-decoder model, which would read a text twice to classify it; give an encoder "
            "or a decoder"
        )
    if ENCODERS.get(str(kind), ("", None))[0] == "is_decoder" and of("is_decoder"):
        raise Unsupported(
            f"base: the head of {kind} reads the first token, which sees no other one (its config has is_decoder)"
        )
    known, classify = _families(_CLASSIFY)
    own = "AutoModelForSequenceClassification" in (of("auto_map") or {})
    if kind in known - classify and not own:
        raise Unsupported(f"base: transformers has no model of {kind} with a head for classification")


@cache
def _families(which: str) -> tuple[frozenset[str], frozenset[str]]:
    """Return the ``model_type`` of all families with a task in transformers, and of those in one of its tables.

    They are read from the text of its file, since importing it takes seconds; both are empty if that is not possible.
    """
    found = find_spec("transformers")
    path = Path(found.origin).parent / "models" / "auto" / "modeling_auto.py" if found and found.origin else None
    if path is None or not path.is_file():
        return frozenset(), frozenset()
    text = path.read_text(encoding="utf-8")
    listed = text.partition(f"{which} = ")[2].partition("\n)\n")[0]
    return frozenset(_FAMILY.findall(text)), frozenset(_FAMILY.findall(listed))


def check(model: Any, precision: Precision, device: str) -> None:
    """Check by gradients that logits at a position do not depend on later tokens.

    In a causal model, the gradient of the first position's logits with respect to the embedding of a later token is
    zero. Comparing logits before and after changing a later token would not do for mixtures of experts and LLM.int8,
    where tokens share matrix products and so affect each other's rounding.

    Args:
        model: the loaded base model.
        precision: the precision in which it computes.
        device: the device that holds it.

    Raises:
        Unsupported: if they do.
    """
    ahead = reads_ahead(model, precision, device)
    if ahead is not None and ahead > NOISE:
        raise Unsupported(
            f"base: {type(model).__name__} reads in both directions (a later token changes its logits at an earlier "
            f"position), {_WHY}"
        )


def check_padding(model: Any, precision: Precision, device: str) -> None:
    """Check by gradients that a model with a head for whole texts reads no padding.

    Raises:
        Unsupported: if it does.
    """
    read = reads_padding(model, precision, device)
    if read is not None and read > NOISE:
        raise Unsupported(
            f"base: {type(model).__name__} reads padding (the logits of a text depend on the padding after it), "
            "so they would depend on the other texts of a batch"
        )


def reads_padding(model: Any, precision: Precision, device: str) -> float | None:
    """Return the largest influence of a padding token on a text's logits, relative to the largest of its own tokens.

    Args and returns are those of ``reads_ahead``; the model has a head for whole texts.
    """
    import torch

    ids = _ids(model, device)
    mask = torch.ones_like(ids)
    mask[:, _TOKENS // 2 :] = 0
    found = influence(model, {"input_ids": ids, "attention_mask": mask}, None, precision, device)
    if found is None or not found[: _TOKENS // 2].max():
        return None
    return float(found[_TOKENS // 2 :].max() / found[: _TOKENS // 2].max())


def _ids(model: Any, device: str) -> torch.Tensor:
    """Return token ids (1, t) from the middle of the vocabulary.

    The first are often special tokens, and padding often has a zero embedding.
    """
    import torch

    config = model.config.get_text_config()
    padding, tokens = getattr(config, "pad_token_id", None), getattr(config, "vocab_size", None)
    tokens = tokens or model.get_input_embeddings().weight.shape[0]
    start = max(0, min(tokens // 2, tokens - _TOKENS - 1))
    chosen = [token for token in range(start, start + _TOKENS + 1) if token != padding]
    return torch.tensor([chosen[:_TOKENS]], device=device)


def reads_ahead(model: Any, precision: Precision, device: str) -> float | None:
    """Return the largest influence of a later token on a position's logits, relative to that of the token there.

    Args:
        model: a base model or a tuned model.
        precision: the precision in which it computes.
        device: the device that holds it.

    Returns:
        A ratio of gradient norms, 0 for a causal model; None if ``influence`` gives None, or 0 for the token itself.
    """
    import torch

    ids = _ids(model, device)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    # the position is counted from the end, as virtual tokens may come first
    found = influence(model, inputs, -_TOKENS, precision, device)
    return None if found is None or not found[0] else float(found[1:].max() / found[0])


def influence(
    model: Any, inputs: Mapping[str, torch.Tensor], place: int | None, precision: Precision, device: str
) -> torch.Tensor | None:
    """Return the influence of each token on the logits at one position: the norm of the gradient to its embedding.

    Args:
        model: a base model or a tuned model.
        inputs: its keyword arguments, tensors of shape (1, t).
        place: the position whose logits are differentiated; None for those of the whole text.
        precision: the precision in which it computes.
        device: the device that holds it.

    Returns:
        Shape (t,). None if no gradient reaches the embeddings because of the model's own code, or if it is not finite.
    """
    import torch

    from peftbench.models import head
    from peftbench.models.load import autocast

    seen: list[torch.Tensor] = []

    def keep(_: Any, __: Any, out: torch.Tensor) -> torch.Tensor:
        seen.append(out.detach().requires_grad_())
        return seen[-1].clone()  # some models change their embeddings in place

    model.eval()
    hook = model.get_input_embeddings().register_forward_hook(keep)
    try:
        with torch.enable_grad(), autocast(precision, device):
            found = head.predictions(model, inputs)[0]
            logits = (found if place is None else found[place]).float()
        if not seen or not logits.requires_grad:
            return None
        along = (logits / logits.norm()).detach()  # dividing by the norm first: large logits would overflow in fp16
        norms = torch.autograd.grad((logits * along).sum(), seen[0])[0].float().norm(dim=-1).flatten()
        return norms if bool(norms.isfinite().all()) else None
    except (RuntimeError, AssertionError) as error:
        if any(words in str(error) for words in _NO_GRADIENT):
            return None
        raise
    finally:
        hook.remove()
