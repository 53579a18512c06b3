"""Training batches: the same examples in the same order for every method of a seed."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from peftbench.errors import Unsupported
from peftbench.records import Example, Training, Trial
from peftbench.tasks import chat, read
from peftbench.training import packing

IGNORED = -100
"""Label of positions that bear no loss."""

_CHUNK = 256
"""Steps whose examples are tokenized together."""

_VALIDATION_EXAMPLES = 256
"""Most held-out examples in a validation loss, in file order, shared among the training sets."""

Identity = tuple[str, int]
"""(task, index): which training example it is."""


@dataclass(frozen=True)
class Encoded:
    """One tokenized example: prompt, answer, end-of-text."""

    ids: tuple[int, ...]
    loss_from: int
    """Position of the first token that bears loss."""
    truncated: bool
    identity: Identity


@dataclass(frozen=True)
class Batch:
    """The examples of one forward pass."""

    ids: torch.Tensor
    """(b, t) token ids, padded on the right."""
    mask: torch.Tensor
    """(b, t): 1 for data, 0 for padding."""
    labels: torch.Tensor
    """(b, t): the token to predict at the position before, or ``IGNORED``."""
    positions: torch.Tensor | None = None
    """(b, t): each token's place in its example, where examples may share a row; else None. Padding is counted as an
    example."""

    @property
    def inputs(self) -> dict[str, torch.Tensor]:
        """What a model is called with. Without a mask, transformers tells examples of a row apart by their places."""
        if self.positions is None:
            return {"input_ids": self.ids, "attention_mask": self.mask}
        return {"input_ids": self.ids, "position_ids": self.positions}

    @property
    def loss_tokens(self) -> int:
        """Tokens that bear loss."""
        return int((self.labels[:, 1:] != IGNORED).sum())

    def to(self, device: str) -> Batch:
        """Return the batch on a device."""
        positions = None if self.positions is None else self.positions.to(device)
        return Batch(self.ids.to(device), self.mask.to(device), self.labels.to(device), positions)


def encode(tokenizer: Any, examples: Sequence[tuple[Identity, Example]], length: int, loss_on: str) -> list[Encoded]:
    """Tokenize prompts and answers as lm-eval does, and end each text with an end-of-text token that is learned.

    Prompt and whole are tokenized apart and the answer is what the whole has more; special tokens are the
    tokenizer's own. Too long an example loses the left of its prompt.
    """
    eos = tokenizer.eos_token_id
    if eos is None:
        raise Unsupported("the base's tokenizer has no end-of-text token, so an answer's end cannot be learned")
    prompts = _ids(tokenizer, [e.prompt for _, e in examples])
    wholes = _ids(tokenizer, [e.prompt + e.join + e.target + e.end for _, e in examples])
    found = []
    for (identity, _), prompt, whole in zip(examples, prompts, wholes, strict=True):
        # some tokenizers close every text themselves
        open_prompt = prompt[:-1] if prompt and prompt[-1] == eos else prompt
        closed = whole if whole and whole[-1] == eos else [*whole, eos]
        loss_from = len(open_prompt) if loss_on == "completion" else 1
        cut = max(0, len(closed) - length)
        found.append(Encoded(tuple(closed[cut:]), max(1, loss_from - cut), cut > 0, identity))
    return found


def _ids(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Return texts' token ids with the tokenizer's own special tokens; without, where a text begins with one itself.

    So does lm-eval. A chat template writes the beginning-of-text token as text.
    """
    first = tokenizer.bos_token or tokenizer.eos_token
    if not any(text.startswith(first) for text in texts):
        return tokenizer(list(texts))["input_ids"]
    return [tokenizer(text, add_special_tokens=not text.startswith(first))["input_ids"] for text in texts]


def collate(examples: Sequence[Encoded], pad_id: int) -> Batch:
    """Return examples in a row each, padded on the right to the longest of them."""
    return _filled([[e] for e in examples], pad_id)


def pack(rows: Sequence[packing.Row], pad_id: int) -> Batch:
    """Return rows of examples, padded on the right to the longest row; ``positions`` tells the examples apart."""
    batch = _filled(rows, pad_id)
    positions = torch.zeros_like(batch.ids)
    for row, examples in enumerate(rows):
        lengths = [len(e.ids) for e in examples]
        parts = [*lengths, batch.ids.shape[1] - sum(lengths)]
        positions[row] = torch.cat([torch.arange(n) for n in parts])
    return replace(batch, positions=positions)


def _filled(rows: Sequence[packing.Row], pad_id: int) -> Batch:
    shape = packing.shape(rows)
    ids = torch.full(shape, pad_id)
    mask = torch.zeros(shape, dtype=torch.long)
    labels = torch.full(shape, IGNORED)
    for row, examples in enumerate(rows):
        start = 0
        for e in examples:
            end = start + len(e.ids)
            ids[row, start:end] = torch.tensor(e.ids)
            mask[row, start:end] = 1
            labels[row, start + e.loss_from : end] = torch.tensor(e.ids[e.loss_from :])
            start = end
    return Batch(ids, mask, labels)


def order(sizes: Mapping[str, int], weights: Mapping[str, float], seed: int) -> Iterator[Identity]:
    """Yield (task, index) without end: a task drawn by weight, its examples in shuffled passes, none left out.

    A function of sizes, weights and seed alone: methods cannot differ in what they see.
    """
    rng = random.Random(f"order {seed}")
    names = list(sizes)

    def passes(name: str) -> Iterator[int]:
        own = random.Random(f"order {seed} {name}")
        indices = list(range(sizes[name]))
        while True:
            own.shuffle(indices)
            yield from indices

    streams = {name: passes(name) for name in names}
    shares = [weights[name] for name in names]
    while True:
        name = names[0] if len(names) == 1 else rng.choices(names, shares)[0]
        yield name, next(streams[name])


def plan_steps(
    examples: Mapping[str, Sequence[Example]], training: Training, tokenizer: Any, seed: int
) -> list[Sequence[Encoded]]:
    """Return each optimizer step's examples, for as many steps as the suite's steps, epochs or tokens ask.

    How many seconds make is not known before: of those, the first steps, after which ``onward`` goes on.
    """
    steps = draw_steps(examples, training, tokenizer, seed)
    if training.seconds is not None:
        return list(itertools.islice(steps, _CHUNK))
    plan: list[Sequence[Encoded]] = []
    seen = 0
    for step in steps:
        plan.append(step)
        seen += sum(len(e.ids) for e in step)
        if training.tokens is not None and seen >= training.tokens:
            break
    return plan


def draw_steps(
    examples: Mapping[str, Sequence[Example]], training: Training, tokenizer: Any, seed: int
) -> Iterator[Sequence[Encoded]]:
    """Yield each optimizer step's examples: as many as steps or epochs ask, else without end."""
    sizes = {name: len(found) for name, found in examples.items()}
    stream = order(sizes, dict(training.data), seed)
    steps = training.steps
    if training.epochs is not None:
        steps = max(1, math.ceil(training.epochs * sum(sizes.values()) / training.batch_size))
    known: dict[Identity, Encoded] = {}
    done = 0
    while steps is None or done < steps:
        count = _CHUNK if steps is None else min(_CHUNK, steps - done)
        drawn = [list(itertools.islice(stream, training.batch_size)) for _ in range(count)]
        new = dict.fromkeys(identity for step in drawn for identity in step if identity not in known)
        pairs = [(identity, examples[identity[0]][identity[1]]) for identity in new]
        if pairs:
            known.update(zip(new, encode(tokenizer, pairs, training.sequence_length, training.loss_on), strict=True))
        chunk = [[known[identity] for identity in step] for step in drawn]
        yield from _grouped(chunk, random.Random(f"group {seed} {done}")) if training.group_by_length else chunk
        done += count


def _grouped(steps: Sequence[Sequence[Encoded]], rng: random.Random) -> list[Sequence[Encoded]]:
    """Return the same examples in steps of like length; which step comes when is drawn."""
    ordered = sorted((e for step in steps for e in step), key=lambda e: len(e.ids))
    size = len(steps[0])
    found: list[Sequence[Encoded]] = [ordered[i : i + size] for i in range(0, len(ordered), size)]
    rng.shuffle(found)
    return found


def fingerprint(plan: Sequence[Sequence[Encoded]]) -> str:
    """Return the SHA-256 of the steps' token ids and loss positions, in order."""
    digest = hashlib.sha256()
    for step in plan:
        digest.update(repr([(e.ids, e.loss_from) for e in step]).encode())
    return digest.hexdigest()


@dataclass(frozen=True)
class Prepared:
    """What a trial trains on."""

    plan: list[Sequence[Encoded]]
    """Each step's examples; where training ends by the clock, the first steps, and more as it goes on."""
    held_out: Sequence[Encoded]
    examples: Mapping[str, Sequence[Example]]
    """Each training set's."""


def of_trial(trial: Trial, tokenizer: Any) -> Prepared:
    """Return what a trial trains on."""
    training = trial.training
    assert training is not None
    tasks = {task.name: task for task in trial.tasks if task.name in dict(training.data)}

    def examples(split: str) -> dict[str, list[Example]]:
        return {
            name: chat.apply(tasks[name], read.examples(tasks[name], split), tokenizer) for name, _ in training.data
        }

    train = examples("train")
    plan = plan_steps(train, training, tokenizer, trial.seed or 0)
    held_out: list[Encoded] = []
    if training.validate_every:
        share = max(1, _VALIDATION_EXAMPLES // len(tasks))
        for name, found in examples("validation").items():
            pairs = [((f"validation {name}", index), e) for index, e in enumerate(found[:share])]
            held_out += encode(tokenizer, pairs, training.sequence_length, training.loss_on)
    return Prepared(plan, held_out, train)


def onward(prepared: Prepared, trial: Trial, tokenizer: Any) -> Iterator[Sequence[Encoded]]:
    """Yield the steps of a plan and go on without end; what is drawn is added to the plan."""
    assert trial.training is not None
    yield from tuple(prepared.plan)
    steps = draw_steps(prepared.examples, trial.training, tokenizer, trial.seed or 0)
    for step in itertools.islice(steps, len(prepared.plan), None):
        prepared.plan.append(step)
        yield step


def columns(prepared: Prepared) -> dict[str, Any]:
    """Return what the steps' examples are, as columns of the trial's row."""
    plan, examples = prepared.plan, prepared.examples
    drawn = [e for step in plan for e in step]
    seen = {
        name: {
            "examples": len(found),
            "drawn": sum(e.identity[0] == name for e in drawn),
            "distinct": len({e.identity for e in drawn if e.identity[0] == name}),
            "truncated": sum(e.truncated for e in drawn if e.identity[0] == name),
        }
        for name, found in examples.items()
    }
    return {
        "batches_sha256": fingerprint(plan),
        "examples_seen": len(drawn),
        "distinct_examples_seen": sum(each["distinct"] for each in seen.values()),
        "truncated_examples": sum(each["truncated"] for each in seen.values()),
        "data_seen_json": json.dumps(seen),
    }


def micro_batches(step: Sequence[Encoded], training: Training, pad_id: int) -> list[Batch]:
    """Return one step's examples as its forward passes."""
    fill = pack if training.packing else _filled
    return [fill(rows, pad_id) for rows in packing.forward_passes(step, training)]
