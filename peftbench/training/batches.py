"""Training batches: the same examples in the same order for every method of a seed."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from peftbench.records import HEADS, Example, Task, Training, Trial
from peftbench.records.columns.data import DataColumns
from peftbench.records.columns.trial import InputColumns
from peftbench.records.columns.work import WorkColumns
from peftbench.tasks import chat, read
from peftbench.training import logits, packing
from peftbench.training.encoded import Encoded, Identity, Row, encode, encode_texts

IGNORED = -100
"""Label of positions that do not enter the loss."""

_CHUNK = 256
"""How many steps' examples are tokenized at once."""

_VALIDATION_EXAMPLES = 256
"""Most examples in a validation loss: the first of each training set's validation split, in equal numbers."""


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
    """(b, t): each token's position in its example if examples may share a row; else None. Padding counts as one more
    example."""
    targets: torch.Tensor | None = None
    """(b,): what a head for whole texts should give, a class's index or a float for regression; None without a head."""
    types: torch.Tensor | None = None
    """(b, t): which text of a pair each token belongs to; None if there is no pair, or the model is not told."""
    bearing: logits.Bearing | None = None
    """Where logits are made; None for every position."""

    @property
    def inputs(self) -> dict[str, torch.Tensor]:
        """The model's arguments. Without a mask, transformers separates the examples of a row by their positions."""
        if self.positions is None:
            types = {} if self.types is None else {"token_type_ids": self.types}
            return {"input_ids": self.ids, "attention_mask": self.mask, **types}
        return {"input_ids": self.ids, "position_ids": self.positions}

    @property
    def loss_tokens(self) -> int:
        """Number of predictions that enter the loss: tokens, or with a head for whole texts examples."""
        if self.targets is not None:
            return len(self.targets)
        return int((self.labels[:, 1:] != IGNORED).sum())

    def to(self, device: str) -> Batch:
        """Return the batch on a device."""
        every = (self.ids, self.mask, self.labels, self.positions, self.targets, self.types, self.bearing)
        return Batch(*(None if found is None else found.to(device) for found in every))  # type: ignore[arg-type]


def collate(examples: Sequence[Encoded], pad_id: int) -> Batch:
    """Return a batch with one example per row, padded on the right to the longest."""
    return _filled([[e] for e in examples], pad_id)


def pack(rows: Sequence[Row], pad_id: int) -> Batch:
    """Return rows of examples, padded on the right to the longest row; ``positions`` separates the examples."""
    batch = _filled(rows, pad_id)
    positions = torch.zeros_like(batch.ids)
    for row, examples in enumerate(rows):
        lengths = [len(e.ids) for e in examples]
        parts = [*lengths, batch.ids.shape[1] - sum(lengths)]
        positions[row] = torch.cat([torch.arange(n) for n in parts])
    return replace(batch, positions=positions)


def _filled(rows: Sequence[Row], pad_id: int) -> Batch:
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
            for first, last in e.loss_spans:
                labels[row, start + first : start + last] = ids[row, start + first : start + last]
            start = end
    return Batch(ids, mask, labels, None, *_of_texts([e for examples in rows for e in examples], shape))


def _of_texts(examples: Sequence[Encoded], shape: tuple[int, int]) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Return the targets and token types of whole texts, one in each row; None if the examples have none."""
    given = [e.label for e in examples if e.label is not None]
    if not given:
        return None, None
    targets = torch.tensor(given)
    if not any(e.types for e in examples):
        return targets, None
    types = torch.zeros(shape, dtype=torch.long)
    for row, e in enumerate(examples):
        types[row, : len(e.types)] = torch.tensor(e.types)
    return targets, types


def order(sizes: Mapping[str, int], weights: Mapping[str, float], seed: int) -> Iterator[Identity]:
    """Yield (task, index) endlessly: a task drawn by weight, then its next example from repeated shuffles of them all.

    It depends on sizes, weights and seed alone, so all methods see the same examples.
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


def draw_batches(
    examples: Mapping[str, Sequence[Example]], training: Training, tokenizer: Any, seed: int, head: Task | None = None
) -> list[Sequence[Encoded]]:
    """Return each optimizer step's examples, for the number of steps that the suite's steps, epochs or tokens give.

    With a budget of seconds the number is not known in advance: these are the first steps, and ``onward`` continues.
    """
    steps = draw_steps(examples, training, tokenizer, seed, head)
    if training.seconds is not None:
        return list(itertools.islice(steps, _CHUNK))
    step_examples: list[Sequence[Encoded]] = []
    seen = 0
    for step in steps:
        step_examples.append(step)
        seen += sum(len(e.ids) for e in step)
        if training.tokens is not None and seen >= training.tokens:
            break
    return step_examples


def draw_steps(
    examples: Mapping[str, Sequence[Example]], training: Training, tokenizer: Any, seed: int, head: Task | None = None
) -> Iterator[Sequence[Encoded]]:
    """Yield each optimizer step's examples, for the suite's steps or epochs; endlessly if it gives neither."""
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
            known.update(zip(new, _encoded(tokenizer, pairs, training, head), strict=True))
        chunk = [[known[identity] for identity in step] for step in drawn]
        yield from _grouped(chunk, random.Random(f"group {seed} {done}")) if training.group_by_length else chunk
        done += count


def _encoded(
    tokenizer: Any, pairs: Sequence[tuple[Identity, Example]], training: Training, head: Task | None
) -> list[Encoded]:
    """Return examples in tokens, for the task that puts a head on the model if there is one."""
    if head is not None:
        return encode_texts(tokenizer, pairs, training.sequence_length, head)
    return encode(tokenizer, pairs, training.sequence_length, training.loss_on)


def head_task(trial: Trial) -> Task | None:
    """Return the task that puts a head on the model; None if the model predicts tokens."""
    return next((task for task in trial.tasks if task.kind in HEADS), None)


def _grouped(steps: Sequence[Sequence[Encoded]], rng: random.Random) -> list[Sequence[Encoded]]:
    """Return the same examples regrouped into steps of similar length, in random order."""
    ordered = sorted((e for step in steps for e in step), key=lambda e: len(e.ids))
    size = len(steps[0])
    found: list[Sequence[Encoded]] = [ordered[i : i + size] for i in range(0, len(ordered), size)]
    rng.shuffle(found)
    return found


def fingerprint(step_examples: Sequence[Sequence[Encoded]]) -> str:
    """Return the SHA-256 of the steps' token ids and loss positions, in order."""
    # without earlier answers as in older results
    digest = hashlib.sha256()
    for step in step_examples:
        digest.update(repr([_digested(e) for e in step]).encode())
    return digest.hexdigest()


def _digested(e: Encoded) -> tuple[Any, ...]:
    if e.label is not None:
        return e.ids, e.types, e.label
    return (e.ids, e.loss_from, *([e.earlier] if e.earlier else []))


@dataclass(frozen=True)
class Prepared:
    """What a trial trains on."""

    step_examples: list[Sequence[Encoded]]
    """Each step's examples. With a budget of seconds only the first steps; more are added during training."""
    held_out: Sequence[Encoded]
    """The examples of the validation loss."""
    examples: Mapping[str, Sequence[Example]]
    """All examples of each training set."""


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
    head = head_task(trial)
    step_examples = draw_batches(train, training, tokenizer, trial.seed or 0, head)
    held_out: list[Encoded] = []
    if training.validate_every:
        share = max(1, _VALIDATION_EXAMPLES // len(tasks))
        for name, found in examples("validation").items():
            pairs = [((f"validation {name}", index), e) for index, e in enumerate(found[:share])]
            held_out += _encoded(tokenizer, pairs, training, head)
    return Prepared(step_examples, held_out, train)


def onward(prepared: Prepared, trial: Trial, tokenizer: Any) -> Iterator[Sequence[Encoded]]:
    """Yield the examples of each step, endlessly; steps beyond those drawn so far are drawn and added."""
    assert trial.training is not None
    yield from tuple(prepared.step_examples)
    steps = draw_steps(prepared.examples, trial.training, tokenizer, trial.seed or 0, head_task(trial))
    for step in itertools.islice(steps, len(prepared.step_examples), None):
        prepared.step_examples.append(step)
        yield step


def columns(prepared: Prepared) -> tuple[InputColumns, WorkColumns, DataColumns]:
    """Return the columns of a trial's row about the examples of its steps."""
    step_examples, examples = prepared.step_examples, prepared.examples
    drawn = [e for step in step_examples for e in step]
    seen: dict[str, dict[str, Any]] = {
        name: {
            "examples": len(found),
            "drawn": sum(e.identity[0] == name for e in drawn),
            "distinct": len({e.identity for e in drawn if e.identity[0] == name}),
            "truncated": sum(e.truncated for e in drawn if e.identity[0] == name),
            "lost": Counter(e.lost for e in drawn if e.identity[0] == name and e.lost),
        }
        for name, found in examples.items()
    }
    work = WorkColumns(
        examples_seen=len(drawn),
        distinct_examples_seen=sum(each["distinct"] for each in seen.values()),
        truncated_examples=sum(each["truncated"] for each in seen.values()),
    )
    return InputColumns(batches_sha256=fingerprint(step_examples)), work, DataColumns(data_seen_json=json.dumps(seen))


def micro_batches(step: Sequence[Encoded], training: Training, pad_id: int) -> list[Batch]:
    """Return the batches of one step's forward passes."""
    fill = pack if training.packing else _filled
    return [bearing(fill(rows, pad_id), training) for rows in packing.forward_passes(step, training)]


def bearing(batch: Batch, training: Training) -> Batch:
    """Return a batch with the positions at which the training settings let logits be made."""
    if batch.targets is not None or training.logits == logits.ALL:
        return batch
    return replace(batch, bearing=logits.bearing(batch.labels != IGNORED, training.logits))
