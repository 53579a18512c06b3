"""A prompt that several texts share is run once, where the model allows it.

The prompts of a batch run first, and the rests of their texts read the prompts' keys and values. This form is used only
if the model keeps plain keys and values of all tokens, and if the log-probabilities of some texts equal those of whole
texts. Models with recurrent states or windows of attention, and anything unknown, run whole texts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from peftbench.evaluation import likelihood, passes
from peftbench.evaluation.likelihood import Answer, Form, Model, Text
from peftbench.records import failures

_WORTH = 0.8
"""The shared form is used if it runs at most this share of the tokens of whole texts."""
_CHECKED = 2
"""Texts of each prompt on which the two forms are compared."""


@dataclass(frozen=True)
class Prompt:
    """Texts that begin with the same tokens."""

    texts: tuple[tuple[int, Text], ...]
    """Each with its index."""
    length: int
    """Number of shared tokens, all of them context."""

    @property
    def ids(self) -> tuple[int, ...]:
        """The shared tokens."""
        return self.texts[0][1].ids[: self.length]


class _NotShared(Exception):
    """The shared form does not exist for the model, with the reason."""


def answers(
    model: Model, texts: Sequence[Text], form: Form
) -> tuple[Iterator[dict[int, Answer]], Iterator[dict[int, Answer]]]:
    """Return the answers to texts by their index, a dict for each forward pass that completes some.

    Each of the two iterators begins with the pass that needs most memory.

    Args:
        model: the model.
        texts: the texts, in any order.
        form: where to record which form was used.

    Returns:
        Those to texts behind a shared prompt, and those to whole texts.
    """
    prompts, alone = _prompts(texts)
    if prompts:
        form.reason = _reason(model, prompts)
        form.shared = form.reason is None
        if not form.shared:
            prompts, alone = [], list(enumerate(texts))
    return _shared(model, prompts), likelihood.whole(model, alone)


def prove(model: Model, texts: Sequence[Text]) -> None:
    """Find out how texts can be run, which ``answers`` does otherwise, among the passes that give scores.

    What is found is kept in ``model``. If memory runs out, texts are run whole and not padded; with several processes
    the trial then ends.
    """
    prompts, alone = _prompts(texts)
    if prompts and _reason(model, prompts) is not None:
        alone = list(enumerate(texts))
    likelihood.prove(model, alone)


def _reason(model: Model, prompts: Sequence[Prompt]) -> str | None:
    """Return why prompts cannot be run once; None if they can, or if longer ones could."""
    sizes = prompts[0].length, max(len(text.ids) for prompt in prompts for _, text in prompt.texts)
    longer = (known for known, reason in model.shares.items() if reason is None)
    if any(known[0] >= sizes[0] and known[1] >= sizes[1] for known in longer):
        return None
    if sizes not in model.shares:
        model.shares[sizes] = model.agreement.reason(_difference(model, prompts))
    return model.shares[sizes]


def _prompts(texts: Sequence[Text]) -> tuple[list[Prompt], list[tuple[int, Text]]]:
    """Return the prompts that are worth sharing, longest first, and all other texts."""
    groups: dict[int, list[tuple[int, Text]]] = {}
    alone = []
    for index, text in enumerate(texts):
        if text.group is None:
            alone.append((index, text))
        else:
            groups.setdefault(text.group, []).append((index, text))
    prompts = []
    for members in groups.values():
        most = min(text.start for _, text in members)
        columns = zip(*(text.ids[:most] for _, text in members), strict=True)
        length = next((place for place, column in enumerate(columns) if len(set(column)) > 1), most)
        whole = sum(len(text.ids) - 1 for _, text in members)
        if length and whole - (len(members) - 1) * length <= _WORTH * whole:
            prompts.append(Prompt(tuple(members), length))
        else:
            alone += members
    return sorted(prompts, key=lambda prompt: -prompt.length), alone


@dataclass(frozen=True)
class _Cached:
    """Prompts that were run."""

    layers: Sequence[tuple[torch.Tensor, torch.Tensor]]
    """Each layer's keys and values of shape (b, h, t, d): virtual tokens, the prompt, and what is behind its end."""
    virtual: int
    """Number of virtual tokens."""
    lengths: Sequence[int]
    """Number of tokens of each prompt."""
    first: Mapping[int, Answer]
    """Index of a text to the answer to its first scored token, for texts in which that follows the prompt."""


class _Layer(DynamicLayer):
    """One layer's keys and values of prompts, read by texts behind them, which are not kept.

    Prompts of unequal length are aligned on the right, as padding is in generation: what attends by distance sees the
    tokens directly before it.
    """

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, rows: torch.Tensor, places: torch.Tensor) -> None:
        """Keep the keys and values of shape (b, h, t, d), and which of them each text reads.

        Args:
            keys: those of all prompts.
            values: the same.
            rows: (n,): the prompt of each text.
            places: (n, w): the positions that it reads.
        """
        super().__init__()
        self.keys, self.values, self.rows, self.places = keys, values, rows, places
        self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True

    def get_seq_length(self) -> int:
        """Return w."""
        return self.places.shape[1]

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the prompts' keys and values with the texts', (n, h, w + t, d) each."""
        assert self.keys is not None
        assert self.values is not None
        return self._before(self.keys, key_states), self._before(self.values, value_states)

    def _before(self, held: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        read = held[self.rows[:, None], :, self.places].transpose(1, 2)
        return torch.cat([read.to(new.dtype), new], dim=-2)


def _shared(model: Model, prompts: Sequence[Prompt]) -> Iterator[dict[int, Answer]]:
    """Run each prompt once, and the rests of its texts behind it."""
    for batch in likelihood.batches(prompts, model.batch_size):
        yield from _batch(model, batch)


def _batch(model: Model, batch: Sequence[Prompt]) -> Iterator[dict[int, Answer]]:
    """Run one batch of prompts and all of their texts; a function of its own, so that its tensors are released."""
    cached = _run(model, batch)
    texts = [(row, index, text) for row, prompt in enumerate(batch) for index, text in prompt.texts]
    texts.sort(key=lambda item: cached.lengths[item[0]] - len(item[2].ids))
    for chunk in likelihood.batches(texts, model.batch_size):
        yield likelihood.sums(_behind(model, cached, chunk))


def _run(model: Model, batch: Sequence[Prompt]) -> _Cached:
    """Run prompts.

    Raises:
        _NotShared: if the model does not return plain keys and values.
    """
    ids = likelihood.padded([prompt.ids for prompt in batch], model.device)
    out = model.call(input_ids=ids, use_cache=True)
    layers = _layers(getattr(out, "past_key_values", None), len(batch))
    virtual = layers[0][0].shape[-2] - ids.shape[1]
    members = [(row, p.length, index, text) for row, p in enumerate(batch) for index, text in p.texts]
    after = [(row, length, index, text) for row, length, index, text in members if text.start == length]
    places = [(row, length - 1, text.ids[length]) for row, length, _, text in after]
    found = likelihood.read(out.logits[:, -ids.shape[1] :], places)
    first = dict(zip((index for *_, index, _ in after), found, strict=True))
    return _Cached(layers, virtual, [prompt.length for prompt in batch], first)


def _layers(cache: Any, size: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return the keys and values of each layer.

    Raises:
        _NotShared: if a layer has none, or anything else.
    """
    if type(cache) is not DynamicCache:
        raise _NotShared(
            f"the model keeps {'no cache' if cache is None else type(cache).__name__}, not keys and values"
        )
    for layer in cache.layers:
        if type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer) or not layer.is_initialized:
            raise _NotShared(f"a layer keeps {type(layer).__name__}, not keys and values of its own")
    found = [(layer.keys, layer.values) for layer in cache.layers]
    if len({x.shape[-2] for pair in found for x in pair}) > 1 or any(x.shape[:1] != (size,) for p in found for x in p):
        raise _NotShared("its layers keep different numbers of keys and values")
    return found


def _behind(model: Model, cached: _Cached, chunk: Sequence[tuple[int, int, Text]]) -> dict[int, list[Answer]]:
    """Run the rests of texts behind their prompts; return the answers to the tokens of each text.

    Args:
        model: the model.
        cached: the prompts.
        chunk: each text with the row of its prompt and its index.
    """
    found = {index: [cached.first[index]] if index in cached.first else [] for _, index, _ in chunk}
    running = [(row, cached.lengths[row], i, text) for row, i, text in chunk if len(text.ids) - 1 > cached.lengths[row]]
    if not running:
        return found
    ids = likelihood.padded([text.ids[length:-1] for _, length, _, text in running], model.device)
    lengths = torch.tensor([length for _, length, *_ in running], device=model.device)
    most = int(lengths.max())
    missing = (most - lengths)[:, None]
    places = torch.arange(cached.virtual + most, device=model.device) - missing
    rows = torch.tensor([row for row, *_ in running], device=model.device)
    layers = [_Layer(keys, values, rows, places.clamp(min=0)) for keys, values in cached.layers]
    inputs: dict[str, Any] = {"input_ids": ids}
    if bool(missing.any()):
        inputs["attention_mask"] = torch.cat([(places >= 0).long(), torch.ones_like(ids)], dim=1)
        if model.takes_positions:
            after = torch.arange(ids.shape[1], device=model.device)
            inputs["position_ids"] = cached.virtual + lengths[:, None] + after
    cache = DynamicCache()
    cache.layers = layers
    with passes.over_texts():
        logits = model.behind(**inputs, past_key_values=cache, use_cache=True).logits[:, -ids.shape[1] :]
    later = [
        (n, i - 1 - length, index, text.ids[i])
        for n, (_, length, index, text) in enumerate(running)
        for i in text.scored
        if i > length
    ]
    for (_, _, index, _), answer in zip(
        later, likelihood.read(logits, [(n, i, t) for n, i, _, t in later]), strict=True
    ):
        found[index].append(answer)
    return found


def _difference(model: Model, prompts: Sequence[Prompt]) -> str | None:
    """Return why the prompts cannot be run once; None if texts of the longest and the shortest get equal answers.

    Both forms are computed, whole texts one by one, so that this needs hardly more memory than the shared form. The
    longest texts decide whether a window of attention is narrower than what is read.
    """
    chosen = [replace(p, texts=_some(p)) for p in dict.fromkeys((prompts[0], prompts[-1]))]
    texts = [item for prompt in chosen for item in prompt.texts]
    try:
        _check_windows(model, prompts)
        shared = {k: v for found in _shared(model, chosen) for k, v in found.items()}
        whole = {k: v for found in likelihood.whole(replace(model, batch_size=1), texts) for k, v in found.items()}
    except _NotShared as error:
        return str(error)
    except Exception as error:
        if model.agreement.ran_out(error):
            return "memory ran out in the check of the form in which they are run once"
        return f"the model does not continue from a cache: {failures.words(error)}"
    gap = max(abs(shared[i][0] - whole[i][0]) / len(text.scored) for i, text in texts)
    allowed = likelihood.TOLERANCE[model.dtype]
    return None if gap <= allowed else f"log-probabilities differ by {gap:.2g} nats per token; allowed: {allowed:g}"


def _some(prompt: Prompt) -> tuple[tuple[int, Text], ...]:
    """Return a prompt's shortest and longest texts."""
    ordered = sorted(prompt.texts, key=lambda item: len(item[1].ids))
    return tuple(dict.fromkeys((*ordered[: _CHECKED // 2], *ordered[-(_CHECKED // 2) :])))


def _check_windows(model: Model, prompts: Sequence[Prompt]) -> None:
    """Check that no layer attends to, and keeps, only the last tokens of the longest texts.

    Raises:
        _NotShared: if one does.
    """
    ids = likelihood.padded([prompts[0].ids], model.device)
    cache = getattr(model.call(input_ids=ids, use_cache=True), "past_key_values", None)
    layers = getattr(cache, "layers", ())
    windows = [layer.sliding_window for layer in layers if isinstance(layer, DynamicSlidingWindowLayer)]
    if cache is not None and windows:
        rest = max(len(text.ids) - prompt.length for prompt in prompts for _, text in prompt.texts)
        if min(windows) <= cache.get_seq_length() + rest:
            raise _NotShared(f"a layer attends to the last {min(windows)} tokens only")
