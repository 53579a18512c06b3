"""Log-probabilities of texts under a model, in batches of whole texts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any, TypeVar

import torch

from peftbench.evaluation.agreement import ALONE, Agreement

TOLERANCE: Mapping[str, float] = {"float32": 1e-3, "float16": 0.1, "bfloat16": 0.3}
"""By how many nats per token the log-probability of a text may differ with how it is computed, by compute dtype."""
_AT_ONCE = 1024
"""Tokens whose logits are copied at once."""
Item = TypeVar("Item")
Answer = tuple[float, bool]
"""A text's log-probability in nats, and whether each of its tokens is the most likely one."""


@dataclass(frozen=True)
class Text:
    """The tokens of a context and of its continuation, which is scored."""

    ids: tuple[int, ...]
    start: int
    """Position of the continuation's first token; at least 1, and less than the number of tokens."""
    group: int | None = None
    """Texts of a group may share the beginning of their contexts; None for a text by itself."""

    def cut(self, length: int) -> Text:
        """Return the text without the tokens on the left that exceed ``length``."""
        extra = max(0, len(self.ids) - length)
        return replace(self, ids=self.ids[extra:], start=max(1, self.start - extra)) if extra else self

    @property
    def scored(self) -> range:
        """The positions of the continuation's tokens."""
        return range(self.start, len(self.ids))


@dataclass
class Model:
    """A model and how it is run."""

    call: Callable[..., Any]
    """Runs a forward pass of the tuned model with keyword arguments, without gradients, in its compute dtype."""
    behind: Callable[..., Any]
    """The same without the method's virtual tokens, which are in the cache already."""
    takes_positions: bool
    """Whether the model's forward pass takes ``position_ids``; else it derives positions from the mask."""
    dtype: str
    """The compute dtype."""
    batch_size: int
    """Most texts in a forward pass."""
    device: torch.device
    pads: bool | None = None
    """Whether texts of unequal length may share a batch; None until that is known."""
    shares: dict[tuple[int, int], str | None] = field(default_factory=dict)
    """Why prompts cannot be run once for all of their texts, None if they can, as far as that is known. The keys are
    the tokens of the longest prompt and of the longest text for which it was found."""
    agreement: Agreement = ALONE
    """How the processes that call the model together decide."""


@dataclass
class Form:
    """Which form was used, filled in while texts are scored."""

    shared: bool = False
    """Whether prompts that several texts share were run once."""
    reason: str | None = None
    """Why they were run with each text instead; None if there are none, or if sharing would not save enough."""
    pads: bool | None = None
    """Whether texts of unequal length shared batches; None if there were none."""


def batches(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    """Yield items in groups of at most ``size``, in order."""
    return (items[start : start + size] for start in range(0, len(items), size))


def padded(rows: Sequence[Sequence[int]], device: torch.device, least: int = 0) -> torch.Tensor:
    """Return rows of token ids, (b, t) with t at least ``least``, padded on the right, where nothing scored sees it."""
    longest = max(least, *map(len, rows))
    return torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], device=device)


def read(logits: torch.Tensor, places: Sequence[tuple[int, int, int]]) -> list[Answer]:
    """Return the answer to each token.

    Args:
        logits: (b, t, v), in any dtype; the softmax is computed in float32.
        places: row and position of the logits that predict a token, and the token.
    """
    found: list[Answer] = []
    for some in batches(places, _AT_ONCE):
        rows, positions, ids = torch.tensor(some, device=logits.device).T
        predicted = logits[rows, positions].log_softmax(-1, dtype=torch.float32)
        logprobs = predicted.gather(1, ids[:, None])[:, 0]
        found += zip(logprobs.tolist(), (predicted.argmax(1) == ids).tolist(), strict=True)
    return found


def sums(tokens: Mapping[int, Sequence[Answer]]) -> dict[int, Answer]:
    """Return the answer to each text from those to its tokens."""
    return {i: (sum(logprob for logprob, _ in each), all(most for _, most in each)) for i, each in tokens.items()}


def whole(model: Model, texts: Sequence[tuple[int, Text]]) -> Iterator[dict[int, Answer]]:
    """Run whole texts, the longest first."""
    ordered = sorted(texts, key=lambda item: -len(item[1].ids))
    if len(texts) > 1 and _pads(model, ordered[0], ordered[-1]):
        groups = [ordered]
    else:
        groups = [list(same) for _, same in groupby(ordered, key=lambda item: len(item[1].ids))]
    for group in groups:
        for batch in batches(group, model.batch_size):
            yield _run(model, batch)


def prove(model: Model, texts: Sequence[tuple[int, Text]]) -> None:
    """Find out whether texts may share a batch, which ``whole`` does otherwise, among the passes that give scores."""
    ordered = sorted(texts, key=lambda item: -len(item[1].ids))
    if len(ordered) > 1:
        _pads(model, ordered[0], ordered[-1])


def _pads(model: Model, longest: tuple[int, Text], shortest: tuple[int, Text]) -> bool:
    """Return whether texts of unequal length may share a batch: not if padding changes what comes before it.

    In most families it cannot, as attention is causal. Some select what they attend to among all positions. The
    shortest text is run by itself, once as it is and once padded to the length of the longest. If memory runs out, they
    may not; with several processes the trial then ends.
    """
    if model.pads is None and model.batch_size > 1 and len(longest[1].ids) > len(shortest[1].ids):
        index, text = shortest
        model.pads = False
        try:
            (alone, _), (padding, _) = (_run(model, [shortest], to)[index] for to in (0, len(longest[1].ids) - 1))
            close = abs(alone - padding) / len(text.scored) <= TOLERANCE[model.dtype]
            model.pads = model.agreement.reason(None if close else "padding changes what comes before it") is None
        except Exception as error:
            if not model.agreement.ran_out(error):
                raise
    return model.pads is not False


def _run(model: Model, batch: Sequence[tuple[int, Text]], least: int = 0) -> dict[int, Answer]:
    ids = padded([text.ids[:-1] for _, text in batch], model.device, least)
    logits = model.call(input_ids=ids, use_cache=False).logits[:, -ids.shape[1] :]  # without virtual tokens
    places = [(row, i - 1, text.ids[i]) for row, (_, text) in enumerate(batch) for i in text.scored]
    found = iter(read(logits, places))
    return sums({index: [next(found) for _ in text.scored] for index, text in batch})
