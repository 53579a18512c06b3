"""Defaults that follow from the base model and the data, for suites that do not give these settings. No torch.

The general defaults (``schema.TRAIN``, the methods' recipes) are right for the built-in base model. For any other,
``resolve`` reads the base's config and the data's lengths before a suite is expanded, so that ``plan`` and ``run`` have
the same trials and a trial's key contains the values. Nothing is read for settings that the suite gives.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

from peftbench.errors import Unsupported, UserError
from peftbench.methods import METHODS, Method, default_rates, method_of, profiles
from peftbench.models import builtin, here, size, stored
from peftbench.records import Base, Example, Task
from peftbench.suite import layers
from peftbench.suite.records import BaseDefaults, Block, Suite
from peftbench.tasks import hub, read
from peftbench.training.token_lengths import CHARACTERS, Lengths, lengths

LARGE = 500_000_000
"""Parameters above which the default precision is bf16: weights, gradients and AdamW's state of fp32 take 16 bytes
each."""
PRECISION = "bf16"
"""The frozen base in bf16, trainable weights and the optimizer's state in fp32."""
PERCENT = 99
"""Percentile of the training examples' lengths that is the default sequence length."""
UNKNOWN_CONTEXT = 2048
"""Most tokens if the base's config gives no context length, and for scored prompts whose length is not known."""
_LONGEST = 600
"""Number of scored prompts and of choices with the most bytes that are tokenized, besides as many other prompts."""
_MULTIPLE = 8
"""Default lengths are multiples of it, which is fastest on GPUs."""

Folder = Callable[[Base], Path | None]
"""Returns the folder with a base model's config and tokenizer; None if they are not on this machine."""


_Training = Sequence[tuple[Task, Sequence[Example]]]
"""Each training set."""


@dataclass(frozen=True)
class _Open:
    """Which settings some cell of a suite leaves to a default."""

    rate: bool
    precision: bool
    sequence_length: bool
    steps: bool
    max_length: bool

    @property
    def anything(self) -> bool:
        return self.rate or self.precision or self.sequence_length or self.steps or self.max_length


@dataclass(frozen=True)
class _Inputs:
    """What defaults follow from."""

    suite: Suite
    folder: Path
    """The base model's."""
    config: Mapping[str, Any]
    examples: read.Reader

    def training(self) -> Iterator[tuple[Task, Sequence[Example]]]:
        """Yield each training set."""
        tasks = {task.name: task for task in self.suite.tasks}
        for name, _ in self.suite.data:
            yield tasks[name], self.examples(tasks[name], "train")

    def lengths(self, task: Task, examples: Sequence[Example]) -> Iterator[Lengths]:
        """Yield the lengths of examples, if there are any, by the tokenizer that a trial would use."""
        base = self.suite.base
        shape = base.random_weights and not here.has_tokenizer(self.folder)
        tokenizer = builtin.folder(builtin.BASES[0]) if shape else self.folder
        if examples:
            yield lengths(task, examples, tokenizer, base.trust_remote_code)


def resolve(
    suite: Suite, folder: Folder = here.folder, download: bool = False, examples: read.Reader | None = None
) -> Suite:
    """Return a suite with the defaults that follow from its base model and data.

    Args:
        suite: a validated suite.
        folder: returns the base model's folder.
        download: whether datasets of the hub may be fetched.
        examples: reads a split, perhaps from memory; None to read it.

    Raises:
        UserError: if ``folder`` does.
    """
    if suite.smoke or (suite.base.source in builtin.BASES and not suite.base.random_weights):
        return suite
    wanted = _open(suite)
    if not wanted.anything:
        return suite
    path = folder(suite.base)
    config = here.config(path) if path else {}
    if path is None and here.downloadable(suite.base):
        note = "learning rate, precision, sequence length and steps follow from the base model, which is not here yet"
        return replace(suite, defaults=BaseDefaults(notes=(note,)))
    if path is None or not config:
        return suite  # the check of the base model reports what is wrong
    inputs = _Inputs(suite, path, config, examples or read.examples)
    return replace(suite, defaults=_of_data(inputs, wanted, _of_model(inputs, wanted), download))


def _open(suite: Suite) -> _Open:
    each = [(method_of(b.method, {k: v[0] for k, v in b.axes.items()}), b) for b in suite.blocks]
    training = [(method, block) for method, block in each if method.trains]
    left = layers.DEFAULT
    sequence = any(layers.origin("sequence_length", *pair, suite) == left for pair in training)
    return _Open(
        rate=any(
            layers.origin("learning_rate", m, b, suite) == layers.RECIPE and default_rates.law_of(m.name, {})
            for m, b in training
        ),
        precision=any(_leaves_precision(b, suite) for _, b in each),
        sequence_length=sequence,
        steps=any(layers.origin("steps", *pair, suite) == left for pair in training),
        max_length=suite.max_length is None and (sequence or not training),
    )


def _leaves_precision(block: Block, suite: Suite) -> bool:
    return "precision" not in block.axes and "precision" not in suite.axes


def _of_model(inputs: _Inputs, wanted: _Open) -> BaseDefaults:
    """Return the defaults that follow from the base model's size."""
    found, reasons, config = BaseDefaults(), [], inputs.config
    if wanted.rate:
        width, experts = size.width(config), size.has_experts(config)
        found = replace(found, width=width or default_rates.REFERENCE_WIDTH, experts=experts)
        reasons.append(("learning_rate", f"untuned default for a hidden size of {_counted_width(width, experts)}"))
    quantized = stored.scheme(config) if wanted.precision and not inputs.suite.base.random_weights else None
    count = size.parameters(inputs.folder, config) if wanted.precision and not quantized else None
    if quantized:
        found = replace(found, precision=stored.NAME)
        used = "" if stored.why_refused(config) else ", and trained as it is"
        reasons.append(("precision", f"the base is stored quantized ({quantized.words}){used}"))
    elif count and count > LARGE:
        found = replace(found, precision=PRECISION)
        reasons.append(("precision", f"the base has {count / 1e9:.3g} billion parameters, more than {LARGE / 1e9:g}"))
    return replace(found, reasons=tuple(reasons))


def _counted_width(width: int | None, experts: bool) -> str:
    if experts:
        known = "unknown" if width is None else f"{width:,}"
        return f"{known}, as a mixture of experts counted as {default_rates.EXPERTS_WIDTH:,}"
    return f"{default_rates.REFERENCE_WIDTH:,}, as config.json gives none" if width is None else f"{width:,}"


def _of_data(inputs: _Inputs, wanted: _Open, found: BaseDefaults, download: bool) -> BaseDefaults:
    """Return the defaults with those that follow from the data."""
    if not (wanted.sequence_length or wanted.steps or wanted.max_length):
        return found
    away = [task.dataset for task in inputs.suite.tasks if hub.is_remote(task) and not download]
    if away:
        what = ", ".join(dict.fromkeys(map(repr, away)))
        return replace(found, notes=(f"sequence length and steps follow from dataset {what}, which is not here yet",))
    try:
        training = list(inputs.training())
        if wanted.steps:
            found = _with_steps(training, found)
        return _with_lengths(inputs, training, wanted, found)
    except (UserError, Unsupported) as error:  # whatever needs the data or the tokenizer reports it
        note = f"sequence length and steps follow from the data and the tokenizer, which cannot be used: {error}"
        return replace(found, notes=(note,))


def _with_steps(training: _Training, found: BaseDefaults) -> BaseDefaults:
    count = sum(len(examples) for _, examples in training)
    why = f"one pass over {count:,} training examples, at most {layers.LONGEST_RUN:,} steps"
    return replace(found, examples=count, reasons=(*found.reasons, ("steps", why))) if count else found


def _with_lengths(inputs: _Inputs, training: _Training, wanted: _Open, found: BaseDefaults) -> BaseDefaults:
    most = _most_tokens(inputs)
    counted = [each for pair in training for each in inputs.lengths(*pair)] if wanted.sequence_length else []
    if counted:
        length, why = _sequence_length(counted, most)
        found = replace(found, sequence_length=length, reasons=(*found.reasons, ("sequence_length", why)))
    if wanted.max_length:
        why = "the longest scored prompt with its answer, or sequence_length if longer"
        longest = _max_length(inputs, most)
        found = replace(found, max_length=longest, reasons=(*found.reasons, ("max_length", why)))
    return found


def _sequence_length(counted: Sequence[Lengths], most: int) -> tuple[int, str]:
    """Return the default sequence length and why: a percentile of all training examples, within the context."""
    weighted = sorted((n, each.examples / len(each.wholes)) for each in counted for n in each.wholes)
    total, reached = sum(weight for _, weight in weighted), 0.0
    percentile = weighted[-1][0]
    for tokens, weight in weighted:
        reached += weight
        if reached >= total * PERCENT / 100 - 1e-9:
            percentile = tokens
            break
    length = max(2, min(_rounded(percentile), most))
    longer = sum(weight for tokens, weight in weighted if tokens > length) / total
    sample = sum(len(each.wholes) for each in counted)
    everything = f"{total:,.0f} training examples"
    of = f"{sample:,} examples drawn from {everything}" if sample < round(total) else everything
    bound = f", limited by the context to {most:,}" if most < percentile else ""
    cut = f"{100 * longer:.2g} % are longer and truncated" if longer else "none is longer"
    why = f"of {of}, {PERCENT} % have at most {percentile:,} tokens{bound}; {cut}"
    return length, why


def _max_length(inputs: _Inputs, most: int) -> int:
    """Return how many tokens the scored prompts with their answers take, within the context."""
    needed, split = 2, inputs.suite.split
    for task in inputs.suite.tasks:
        if task.name not in inputs.suite.scored:
            continue
        if task.lm_eval or task.num_fewshot:
            needed = max(needed, UNKNOWN_CONTEXT)
            continue
        decoded = task.kind in ("exact_match", "generation")
        for each in inputs.lengths(task, _longest(inputs.examples(task, split))):
            answer = max(whole - prompt for whole, prompt in zip(each.wholes, each.prompts, strict=True))
            longest = max(task.max_new_tokens if decoded else 0, answer if task.kind == "choice" else 0)
            needed = max(needed, *each.wholes, max(each.prompts) + longest)
    return min(_rounded(needed), most)


def _longest(examples: Sequence[Example]) -> list[Example]:
    """Return examples that have the longest prompts and all choices as targets, few enough that none is left out.

    Which text has the most tokens is not known from its characters, so many are given.
    """
    by_size = sorted(examples, key=lambda e: len((e.prompt + e.second).encode()), reverse=True)
    others = by_size[_LONGEST:]
    choices = {choice for e in examples for choice in e.choices}
    largest = heapq.nlargest(_LONGEST, sorted(choices), key=lambda choice: len(choice.encode()))
    found = [
        *(replace(by_size[-1], target=choice, choices=(), references=()) for choice in largest),
        *by_size[:_LONGEST],
        *random.Random("scored prompts").sample(others, min(_LONGEST, len(others))),
    ]
    sizes = accumulate(len(e.prompt) + len(e.target) for e in found)
    return found[: max(1, sum(size <= CHARACTERS for size in sizes))]


def _rounded(tokens: int) -> int:
    return -(-tokens // _MULTIPLE) * _MULTIPLE


def _most_tokens(inputs: _Inputs) -> int:
    """Return the context less the most virtual tokens of any cell, so that all methods have the same length."""
    suite = inputs.suite
    virtual = [
        max(block.axes.get(method.rank_key) or suite.axes.get("rank") or (_default_rank(suite, method),))
        for block in suite.blocks
        if (method := METHODS[block.method]).virtual_tokens
    ]
    return max(2, (size.context(inputs.config) or UNKNOWN_CONTEXT) - max(virtual, default=0))


def _default_rank(suite: Suite, method: Method) -> int:
    return profiles.rank(suite.profile, method.name, method.default_rank) or 0
