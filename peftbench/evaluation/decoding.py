"""How answers are decoded: every parameter of generation is set here, whatever the base model's folder says.

``transformers`` fills each parameter that a call leaves open from the model's ``generation_config``. That file can
contain penalties, sampling or beams, and then "greedy" scores would be those of another search. So the model's own
configuration is exchanged for an empty one during each call, and the call gives every parameter.
"""

from __future__ import annotations

import json
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from lm_eval.models.utils import normalize_gen_kwargs, postprocess_generated_text
from transformers import GenerationConfig, GenerationMixin, LogitsProcessorList, StoppingCriteriaList
from transformers.generation import GenerationMode

from peftbench.errors import Unsupported
from peftbench.evaluation import starts
from peftbench.evaluation.answer_steps import Ended, OnceInAnswer
from peftbench.models.anatomy import parts
from peftbench.tasks.lm_eval_export import NGRAMS, TURN_ENDS

if TYPE_CHECKING:
    from peftbench.evaluation.lm_eval_model import Harness

GREEDY: Mapping[str, Any] = MappingProxyType(
    {
        "do_sample": False,
        "num_beams": 1,
        "temperature": 1.0,
        "top_k": 50,
        "top_p": 1.0,
        "min_p": None,
        "top_h": None,
        "typical_p": 1.0,
        "epsilon_cutoff": 0.0,
        "eta_cutoff": 0.0,
        "repetition_penalty": 1.0,
        "encoder_repetition_penalty": 1.0,
        "no_repeat_ngram_size": 0,
        "encoder_no_repeat_ngram_size": 0,
        "exponential_decay_length_penalty": None,
        "length_penalty": 1.0,
        "diversity_penalty": 0.0,
        "num_beam_groups": 1,
        "early_stopping": False,
        "min_length": 0,
        "min_new_tokens": None,
        "bad_words_ids": None,
        "force_words_ids": None,
        "constraints": None,
        "suppress_tokens": None,
        "begin_suppress_tokens": None,
        "forced_bos_token_id": None,
        "forced_eos_token_id": None,
        "sequence_bias": None,
        "guidance_scale": None,
        "penalty_alpha": None,
        "dola_layers": None,
        "renormalize_logits": None,
        "remove_invalid_values": False,
        "watermarking_config": None,
        "token_healing": None,
        "stop_strings": None,
    }
)
"""Every parameter of ``transformers`` that decides which tokens are generated, at the values of greedy decoding. Those
of sampling have no effect while ``do_sample`` is false."""
_MODES = (GenerationMode.GREEDY_SEARCH, GenerationMode.SAMPLE, GenerationMode.BEAM_SEARCH, GenerationMode.BEAM_SAMPLE)
"""Searches that ``transformers`` can do without code from the hub."""
_ENDS = (
    "</s>",
    "<eos>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<end_of_turn>",
    "<|end_of_turn|>",
    "<|end|>",
    "<|return|>",
    "<|EOT|>",
    "<EOT>",
)
"""Control tokens with which known models end a text or a turn, as in llama.cpp's list of end-of-generation tokens. A
model may write one that is not its tokenizer's end-of-text token; it has no text, so what follows would be read as a
part of the answer."""


def end_tokens(tokenizer: Any, stops: Iterable[str] = ()) -> tuple[int, ...]:
    """Return the ids of the tokens that end an answer.

    These are end-of-text; beginning-of-text, with which another text begins; known ends; and stop texts that are one
    control token.
    """
    special = {str(token): index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    found = [tokenizer.eos_token_id, tokenizer.bos_token_id, *(special.get(text) for text in (*_ENDS, *stops))]
    return tuple(sorted({index for index in found if index is not None}))


def own(model: Any) -> dict[str, Any]:
    """Return the parameters that the folder of a model, or of the base model inside it, gives for generation."""
    for module in model.modules():
        config = vars(module).get("generation_config")
        if config is not None:
            plain = config.to_dict()
            names = (*GREEDY, "eos_token_id")
            return {name: plain[name] for name in names if plain.get(name) is not None}
    return {}


@contextmanager
def without_own(model: Any) -> Iterator[None]:
    """Hide what a model's folder says about generation within the context: its configuration and its own code."""
    with ExitStack() as after:
        for module in model.modules():
            held = vars(module)
            if "generation_config" in held:
                after.callback(held.__setitem__, "generation_config", held["generation_config"])
                held["generation_config"] = GenerationConfig()
            # custom_generate/generate.py of a folder whose code may run; a tuner of peft has a function of ours
            if "generate" in held and isinstance(module, GenerationMixin):
                after.callback(held.__setitem__, "generate", held.pop("generate"))
        yield


@contextmanager
def contiguous(model: Any) -> Iterator[None]:
    """Give a model's head contiguous inputs within the context, where it computes in 16 bits on a CPU.

    ``generate`` slices the last positions of the prompts off. Torch multiplies a slice row by row, for which oneDNN
    copies a head in 16 bits for each row: 0.8 GB for 32 prompts, a width of 384 and a vocabulary of 32,768. The logits
    are the same.
    """

    def packed(_: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        slow = inputs and inputs[0].device.type == "cpu" and inputs[0].dtype in (torch.bfloat16, torch.float16)
        return (inputs[0].contiguous(), *inputs[1:]) if slow else None

    head = parts.end(model, "get_output_embeddings")
    hook = head.register_forward_pre_hook(packed) if head is not None else None
    try:
        yield
    finally:
        if hook is not None:
            hook.remove()


@dataclass(frozen=True)
class Decoding:
    """How the answers of one task are decoded."""

    parameters: Mapping[str, Any]
    """The value of each parameter in ``GREEDY``."""
    stops: tuple[str, ...]
    """Texts that end an answer, the text of the end-of-text token included."""
    ends: tuple[int, ...]
    """Ids of the tokens that end an answer."""
    max_new_tokens: int
    turn_ends: tuple[str, ...] = ()
    """Texts that end a chat turn, and are removed where an answer ends with one."""
    ngrams: int = 0
    """No sequence of this many tokens occurs twice in an answer, whatever the prompt contains; 0 for no such rule."""
    more: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of a task of lm-eval that are no parameters of the search."""

    @property
    def sampled(self) -> bool:
        """Whether answers are drawn at random."""
        return bool(self.parameters["do_sample"])

    @property
    def beams(self) -> int:
        """Number of sequences that are decoded for a prompt at the same time."""
        return int(self.parameters["num_beams"] or 1)

    def config(self, pad_id: int, use_cache: bool = True) -> GenerationConfig:
        """Return the configuration for one call.

        Raises:
            Unsupported: if the parameters ask for a search that ``transformers`` does not have.
        """
        with warnings.catch_warnings(action="ignore"):
            made = GenerationConfig(
                **self.parameters,
                max_new_tokens=self.max_new_tokens,
                eos_token_id=list(self.ends) or None,
                pad_token_id=pad_id,
                use_cache=use_cache,
            )
        if made.get_generation_mode() not in _MODES:
            asked = {name: value for name, value in self.parameters.items() if value != GREEDY[name]}
            raise Unsupported(
                f"evaluate.generation: base: its generation_config asks for {made.get_generation_mode().value} "
                f"({json.dumps(asked, default=str)}), which transformers can do only with code from the hub; allowed: "
                "greedy"
            )
        return made

    def settings(self) -> dict[str, Any]:
        """Return the parameters as they are stored with a score."""
        plain = {**json.loads(json.dumps(dict(self.parameters), default=str)), "end_token_ids": list(self.ends)}
        ngrams = {"no_repeat_ngram_size": self.ngrams, "no_repeat_ngram_in": "answer"}
        return plain | ngrams if self.ngrams else plain


def of_task(model: Any, tokenizer: Any, generation: str, asked: Mapping[str, Any], longest: int) -> Decoding:
    """Return how a task's answers are decoded.

    Args:
        model: the model, whose folder's configuration is used if ``generation`` is ``base``.
        tokenizer: the base model's.
        generation: ``greedy``, or ``base`` for those of the base model's ``generation_config``.
        asked: lm-eval's ``generation_kwargs`` of the task; they have precedence.
        longest: number of new tokens if the task gives none.
    """
    # lm-eval sets a temperature of 0 for greedy decoding; transformers allows none that is not positive
    given = {name: value for name, value in normalize_gen_kwargs(dict(asked), longest).items() if value is not None}
    sampled, temperature = given.pop("do_sample", False), given.pop("temperature", 0.0)
    stops, new_tokens = list(given.pop("until")), int(given.pop("max_gen_toks"))
    theirs = own(model) if generation == "base" else {}
    ends = theirs.pop("eos_token_id", ())
    stops += [text for text in _listed(theirs.pop("stop_strings", ())) if text not in stops]
    parameters = {**GREEDY, **theirs, **{name: given.pop(name) for name in list(given) if name in GREEDY}}
    if sampled:  # as a task of lm-eval may ask
        parameters |= {"do_sample": True, "temperature": temperature or 1.0}
    given.pop("max_length", None)  # the prompt's and the answer's; the answer's own is what counts here
    found = {*end_tokens(tokenizer, stops), *_listed(ends)}
    text = tokenizer.eos_token
    stops += [text] if text and text not in stops else []
    turns, ngrams = tuple(given.pop(TURN_ENDS, ())), int(given.pop(NGRAMS, 0))
    return Decoding(parameters, tuple(stops), tuple(sorted(found)), new_tokens, turns, ngrams, given)


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


@dataclass(frozen=True)
class Answer:
    """One decoded answer."""

    text: str
    """Up to the first end token or stop text, without it."""
    ended: bool
    """Whether the model ended it, as opposed to the largest number of new tokens."""


def answers(harness: Harness, requests: Sequence[tuple[int, Any]], batch_size: int) -> list[Answer]:
    """Decode an answer for each of some prompts of equal length.

    Answers that are drawn at random are drawn one by one, each with its own seed, so that they depend neither on the
    batch size nor on the other prompts.

    Args:
        harness: the wrapped model.
        requests: lm-eval's requests, each with its position among all requests of the task.
        batch_size: most prompts in a forward pass; each beam of a prompt counts as one.
    """
    groups: dict[str, list[int]] = defaultdict(list)
    for place, (_, request) in enumerate(requests):
        groups[json.dumps(request.args[1], sort_keys=True, default=str)].append(place)
    found: dict[int, Answer] = {}
    for places in groups.values():
        decoding = harness.decoding_of(requests[places[0]][1].args[1])
        size = 1 if decoding.sampled else max(1, batch_size // decoding.beams)
        for start in range(0, len(places), size):
            some = places[start : start + size]
            seed = requests[some[0]][0] if decoding.sampled else None
            texts = [requests[place][1].args[0] for place in some]
            found.update(zip(some, _batch(harness, decoding, texts, seed), strict=True))
    return [found[place] for place in range(len(requests))]


def _batch(harness: Harness, decoding: Decoding, prompts: list[str], seed: int | None) -> list[Answer]:
    """Decode the answers to a batch of prompts of equal length."""
    longest = harness.max_length - decoding.max_new_tokens
    ids, mask = (found.to(harness.device) for found in harness.tok_batch_encode(prompts, left_truncate_len=longest))
    start = ids.shape[1]
    ended = [Ended(harness.tokenizer, decoding.stops, start)] if decoding.stops else []
    once = [OnceInAnswer(decoding.ngrams, start)] if decoding.ngrams else []
    kind, dtype = harness.device.type, harness.mixed_precision_dtype
    with (
        without_own(harness.model),
        contiguous(harness.model),
        torch.autocast(kind, dtype=dtype, enabled=dtype is not None),
        nullcontext() if seed is None else _seeded(seed, kind),
    ):
        pad, why = harness.tokenizer.pad_token_id, harness.why_no_cache(ids[:1], decoding.beams)
        if why and starts.invoked(harness.model):
            raise Unsupported(f"peft LORA: alora_invocation_tokens: aLoRA decodes from a cache only, but {why}")
        out = harness.model.generate(
            **starts.inputs(harness.model, ids, mask, decoding.beams),
            generation_config=decoding.config(pad, use_cache=why is None),
            stopping_criteria=StoppingCriteriaList(ended),
            logits_processor=LogitsProcessorList(once),
            **decoding.more,
        )
    rows = out.where(out >= 0, pad).tolist()  # beams are filled up with -1 if no token ends a text
    return [read(harness.tokenizer, row[start:], decoding) for row in rows]


@contextmanager
def _seeded(seed: int, kind: str) -> Iterator[None]:
    with torch.random.fork_rng(devices=[torch.cuda.current_device()] if kind == "cuda" else []):
        torch.manual_seed(seed)
        yield


def read(tokenizer: Any, ids: list[int], decoding: Decoding) -> Answer:
    """Return the answer in generated tokens, which may go on after its end."""
    end = next((place for place, index in enumerate(ids) if index in decoding.ends), None)
    kept = ids[:end]
    whole = tokenizer.decode(kept, skip_special_tokens=False)
    hit = [stop for stop in decoding.stops if stop in whole]
    if not hit:
        return Answer(_without_end(tokenizer.decode(kept, skip_special_tokens=True), decoding), end is not None)
    count = next(n for n in range(1, len(kept) + 1) if any(s in tokenizer.decode(kept[:n]) for s in hit))
    text = tokenizer.decode(kept[:count], skip_special_tokens=True)
    if not any(stop in text for stop in hit):  # a stop text with a control token, which has no text
        text = postprocess_generated_text(tokenizer.decode(kept[:count], skip_special_tokens=False), hit, None)
        for token in tokenizer.all_special_tokens:
            text = text.replace(token, "")
    return Answer(_without_end(postprocess_generated_text(text, list(decoding.stops), None), decoding), True)


def _without_end(text: str, decoding: Decoding) -> str:
    """Return a text without the end of a chat turn, which was trained as the end of every answer."""
    end = next((end for end in decoding.turn_ends if text.rstrip().endswith(end)), None)
    return text if end is None else text.rstrip().removesuffix(end)
