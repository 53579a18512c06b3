"""Prompt tuning: trainable embeddings that precede the input."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from peft import PromptTuningConfig, get_peft_model

from peftbench.errors import Unsupported, UserError
from peftbench.methods import peft_checkpoint, prompt_sizes, whole_text_prompts

# text is applied after attaching, since peft would load a tokenizer by name, possibly from the hub
_INITIALIZATIONS = {"random": "RANDOM", "vocabulary": "SAMPLE_VOCAB", "text": "RANDOM"}


def attach(model: Any, rank: int, options: Mapping[str, Any]) -> Any:
    """Prepend ``rank`` trainable embeddings of shape (rank, d) to the embeddings of every input.

    Args:
        model: the frozen base model.
        rank: number of virtual tokens p.
        options: ``initialization``: ``vocabulary`` copies uniformly sampled rows of the embedding matrix (the paper
            samples among the 5,000 most common tokens, which a tokenizer does not list); ``random`` draws from the
            standard normal distribution (the paper: uniform in [-0.5, 0.5]); ``text`` copies the embeddings of the
            tokens of the option ``text``, without special tokens, cut or repeated to p tokens.

    Returns:
        The base model wrapped by peft; only the embeddings of the virtual tokens require gradients.

    Raises:
        Unsupported: if peft cannot find the base's embeddings.
        UserError: if one of ``initialization: text`` and ``text`` is given without the other, or the text is empty.

    References:
        Lester et al. 2021, arXiv:2104.08691, sections 2 and 3.2. Differs from it if a text is shorter than the
        prompt: it is repeated, as in peft, while the paper fills the rest with sampled rows.
    """
    start, text = options["initialization"], options.get("text")
    if (start == "text") != (text is not None):
        raise UserError(
            f"prompt_tuning: given initialization: {start} and text: {'none' if text is None else repr(text)}; "
            "allowed: both initialization: text and a text, or neither"
        )
    vocabulary = getattr(model.config.get_text_config(), "vocab_size", None)
    rows = model.get_input_embeddings().weight.shape[0]
    if vocabulary is not None and rows != vocabulary:
        raise Unsupported(
            f"prompt_tuning: peft finds embeddings by their number of rows, which in {type(model).__name__} is "
            f"{rows} instead of the {vocabulary} of the config's vocab_size"
        )
    config = PromptTuningConfig(
        num_virtual_tokens=rank,
        prompt_tuning_init=_INITIALIZATIONS[start],
        task_type=peft_checkpoint.task_type(model),
        **prompt_sizes.for_embeddings(model),
    )
    tuned = whole_text_prompts.prepare(get_peft_model(model, config))
    if text is not None:
        ids = _repeated(model.peftbench_origin.tokenizer, text, rank)
        weight = tuned.prompt_encoder["default"].embedding.weight
        with torch.no_grad():
            weight.copy_(model.get_input_embeddings()(ids.to(weight.device)))
    return tuned


def _repeated(tokenizer: Any, text: str, count: int) -> torch.Tensor:
    """Return the token ids of a text, cut or repeated to shape (count,)."""
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    if not ids:
        raise UserError(f"prompt_tuning: text: given {text!r}; allowed: a text of at least one token")
    return torch.tensor((ids * (count // len(ids) + 1))[:count])
