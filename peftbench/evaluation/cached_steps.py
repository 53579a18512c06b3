"""Whether a model's cache can be trusted: a token computed from it has the logits of a pass over all tokens.

Some families of transformers keep a state that is not what a whole pass computes (rwkv's, with several prompts in a
batch), or fail when they continue from it. Their answers are decoded without a cache, which is slower and right.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import torch
from peft import PeftModel
from transformers import GenerationConfig

from peftbench.errors import Unsupported
from peftbench.evaluation import decoding, starts
from peftbench.evaluation.agreement import ALONE, Agreement
from peftbench.models.load import autocast
from peftbench.models.precision import Precision
from peftbench.records import failures

if TYPE_CHECKING:
    from peftbench.evaluation.generation import Subject

_STEPS = 3
"""Steps from the cache that are compared; the median decides, since rounding may route one token to another expert."""
_BEAMS, _BEAM_STEPS = 3, 6
"""Beams and steps of the search that is compared; a penalty of 0 leaves their scores sums of log-probabilities."""
_PROMPT = 32
"""Most tokens of the prompt, its last ones: the check is small beside what it decides on."""
_CLOSE = {"float32": 1e-2}
_CLOSE_ELSE = 0.1
"""Largest relative distance of a step's logits, by compute dtype; in 16 bits rounding gives some hundredths."""


@torch.no_grad()
def why_not(
    model: Any, ids: torch.Tensor, dtype: str, pad_id: int, length: int, together: Agreement = ALONE
) -> str | None:
    """Return why answers cannot be decoded with the model's cache; None if they can.

    Args:
        model: the model, tuned or not, in evaluation mode, within the context in which it decodes.
        ids: a prompt, (1, t), of which the end is used; a second one in the batch is its reverse.
        dtype: name of the compute dtype.
        pad_id: id of the padding token.
        length: most tokens that the model may run, of prompt and answer together.
        together: how the processes that call the model decide; if memory runs out, several of them do not go on.
    """
    steps = min(_STEPS, length - 1)
    if steps < 1:
        return None  # there is no second step
    ids = ids[:, -min(_PROMPT, length - steps) :]
    try:
        gaps = _distances(model, torch.cat([ids, ids.flip(1)]), steps, pad_id)
    except Exception as error:
        if together.ran_out(error):
            return "memory ran out in the check of the model's cache"
        return f"the model does not continue from its cache: {failures.words(error)}"
    gap = sorted(gaps)[steps // 2]
    if gap <= _CLOSE.get(dtype, _CLOSE_ELSE):
        return None
    return f"a step from the model's cache gives logits that are {gap:.0%} apart from those of a whole pass"


@torch.no_grad()
def why_not_beams(
    model: Any, ids: torch.Tensor, dtype: str, pad_id: int, length: int, together: Agreement = ALONE
) -> str | None:
    """Return why answers cannot be decoded with the model's cache by beam search; None if they can.

    Between steps the cache of each beam is replaced by that of the beam which it continues. The log-probability that
    the search has summed for the best answer is compared with that of a pass over its tokens. Arguments as in
    ``why_not``.
    """
    steps = min(_BEAM_STEPS, length - 1)
    if steps < 1:
        return None
    ids = ids[:, -min(_PROMPT, length - steps) :]
    both, start = torch.cat([ids, ids.flip(1)]), ids.shape[1]
    try:
        made = _generated(model, both, steps, pad_id, cache=True, beams=_BEAMS, penalty=0.0)
        whole = made.sequences
        given = {"attention_mask": torch.ones_like(whole), **starts.behind(model, whole, start)}
        logits = model(input_ids=whole, **given, use_cache=False).logits
    except Exception as error:
        if together.ran_out(error):
            return "memory ran out in the check of the model's cache"
        return f"the model does not search with beams from its cache: {failures.words(error)}"
    new = made.sequences[:, start:, None]
    each = logits[:, -new.shape[1] - 1 : -1].float().log_softmax(-1).gather(-1, new)
    gap = float((made.sequences_scores.float() - each.sum(dim=(1, 2))).abs().max()) / new.shape[1]
    if gap <= _CLOSE.get(dtype, _CLOSE_ELSE):
        return None
    return f"beams from the model's cache are {gap:.2g} nats per token apart from a whole pass over their tokens"


def check_inputs(model: Any, ids: torch.Tensor, precision: Precision, device: str, pad_id: int) -> None:
    """Check that a model decodes from the text alone, before anything is trained.

    xlm in transformers appends a mask token to what it decodes from, so that answers are not the next tokens that
    training teaches.

    Args:
        model: the base model.
        ids: a prompt, (1, t), of which the end is used.
        precision: the precision in which it computes.
        device: the device that holds it.
        pad_id: id of the padding token.

    Raises:
        Unsupported: if the first token's logits are not those of a pass over the text.
    """
    ids = ids[:, -_PROMPT:].to(device)
    model.eval()
    with torch.no_grad(), decoding.without_own(model), autocast(precision, device):
        made = _generated(model, ids, 1, pad_id, cache=False)
        gap = _distance(model, ids, made.logits[0], ids.shape[1])
    if gap > _CLOSE.get(precision.autocast or precision.weights, _CLOSE_ELSE):
        raise Unsupported(
            f"base: {type(model).__name__} does not decode from the text alone (the first token's logits are {gap:.0%} "
            "apart from those of a pass over the text), so its answers would not be those that training teaches; score "
            "tasks of choices only"
        )


def check(subject: Subject) -> None:
    """Check that a model can generate with its cache, without which its speed would be no speed of inference.

    Raises:
        Unsupported: if it cannot.
    """
    ids, precision = subject.prompts.ids, subject.precision
    length = ids.shape[1] + subject.prompts.new_tokens
    with decoding.without_own(subject.model), autocast(precision, subject.device):
        dtype = precision.autocast or precision.weights
        reason = why_not(subject.model, ids[:1].to(subject.device), dtype, subject.pad_id, length)
    if reason is not None:
        raise Unsupported(reason)


def _distances(model: Any, ids: torch.Tensor, steps: int, pad_id: int) -> list[float]:
    """Return the largest relative distance of each step's logits from those of a pass over all tokens before it."""
    made = _generated(model, ids, steps + 1, pad_id, cache=True)
    whole, start = made.sequences, ids.shape[1]
    return [_distance(model, whole[:, : start + step], made.logits[step], start) for step in range(1, steps + 1)]


def _generated(
    model: Any, ids: torch.Tensor, new_tokens: int, pad_id: int, cache: bool, beams: int = 1, penalty: float = 1.0
) -> Any:
    """Return transformers' output of decoding behind ids, (b, t): sequences, each step's logits, (b, v), and scores."""
    config = GenerationConfig(
        max_new_tokens=new_tokens,
        do_sample=False,
        num_beams=beams,
        length_penalty=penalty,
        use_cache=cache,
        pad_token_id=pad_id,
        eos_token_id=None,
    )
    return model.generate(
        **starts.inputs(model, ids, torch.ones_like(ids), beams),
        generation_config=config,
        output_logits=True,
        output_scores=beams > 1,
        return_dict_in_generate=True,
    )


def _distance(model: Any, ids: torch.Tensor, cached: torch.Tensor, start: int) -> float:
    """Return the largest relative distance of a step's logits, (b, v), from those of a pass over all tokens before.

    The first ``start`` tokens are the prompt.
    """
    given: dict[str, Any] = {"logits_to_keep": 1} if _takes_number_of_logits(model) else {}
    given |= {"attention_mask": torch.ones_like(ids), **starts.behind(model, ids, start)}
    found = model(input_ids=ids, use_cache=False, **given).logits[:, -1].float()
    return float(((cached.to(found.device).float() - found).norm(dim=-1) / found.norm(dim=-1)).max())


def _takes_number_of_logits(model: Any) -> bool:
    """Return whether a model computes, if asked, the logits of the last positions only."""
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    return "logits_to_keep" in inspect.signature(base.forward).parameters
