"""Prompt tuning: trainable embeddings before the input."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from peft import PromptTuningConfig, get_peft_model

from peftbench.errors import UserError

# a text is put in afterwards: peft would load the tokenizer by its name, from wherever that leads
_INITIALIZATIONS = {"random": "RANDOM", "vocabulary": "SAMPLE_VOCAB", "text": "RANDOM"}


def attach(model: Any, rank: int, options: Mapping[str, Any]) -> Any:
    """Put ``rank`` trainable embeddings of shape (rank, d) before every input's embeddings.

    Args:
        model: the frozen base.
        rank: number of virtual tokens.
        options: ``initialization``: ``vocabulary`` copies rows of the embedding matrix, sampled uniformly (the paper
            samples among the 5,000 commonest tokens, which a tokenizer does not tell); ``random`` draws them standard
            normal (the paper: uniform in [-0.5, 0.5]); ``text`` takes the embeddings of ``text``'s tokens, without
            special tokens, from the front, and again from its beginning until there are ``rank``.

    Returns:
        The base wrapped by peft; only the embeddings of the virtual tokens require gradients.

    Raises:
        UserError: if one of ``initialization: text`` and ``text`` is given without the other, or the text is empty.

    References:
        Lester et al. 2021, arXiv:2104.08691, sections 2 and 3.2. Departs from it where a text is shorter than the
        prompt: it is repeated, as in peft, while the paper fills up with sampled rows after its class labels.
    """
    start, text = options["initialization"], options.get("text")
    if (start == "text") != (text is not None):
        raise UserError(
            f"prompt_tuning: given initialization: {start} and text: {'none' if text is None else repr(text)}; "
            "allowed: both initialization: text and a text, or neither"
        )
    config = PromptTuningConfig(
        num_virtual_tokens=rank, prompt_tuning_init=_INITIALIZATIONS[start], task_type="CAUSAL_LM"
    )
    tuned = get_peft_model(model, config)
    if text is not None:
        ids = _repeated(model.peftbench_origin.tokenizer, text, rank)
        weight = tuned.prompt_encoder["default"].embedding.weight
        with torch.no_grad():
            weight.copy_(model.get_input_embeddings()(ids.to(weight.device)))
    return tuned


def _repeated(tokenizer: Any, text: str, count: int) -> torch.Tensor:
    """Return ``count`` token ids: the text's, cut or repeated. Shape (count,)."""
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    if not ids:
        raise UserError(f"prompt_tuning: text: given {text!r}; allowed: a text of at least one token")
    return torch.tensor((ids * (count // len(ids) + 1))[:count])
