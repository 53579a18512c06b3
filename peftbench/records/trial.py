"""A trial, and everything that decides its numbers, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from peftbench.records.late import late
from peftbench.records.task import Task


@dataclass(frozen=True)
class Retention:
    """General text on which a trial's loss is measured before and after training; not part of the key."""

    file: str | None = None
    """Plain text, or CSV, TSV, JSON, JSONL or Parquet. One of file and dataset is given."""
    field: str = "text"
    """Of records: the field that holds the text."""
    separator: str = "\n\n"
    """Of a file of plain text: what parts two texts."""
    limit: int | None = 200
    """Only the first so many texts; None for all."""
    dataset: str | None = None
    """Hugging Face dataset: a hub id, or a local folder."""
    config: str | None = None
    revision: str | None = None
    split: str = "test"
    """Of the dataset."""

    @property
    def source(self) -> str:
        """What messages call it."""
        return str(self.file or f"dataset {self.dataset!r}")


@dataclass(frozen=True)
class Base:
    """The base model as the suite names it."""

    source: str
    """A built-in base (``nano``), a local folder, or a Hugging Face hub id; of random weights, a shape."""
    revision: str | None = None
    """Branch, tag or commit of a hub id."""
    trust_remote_code: bool = False
    """Whether code that comes with the weights may run. Off unless the suite says otherwise."""
    random_weights: bool = late(default=False)
    """Whether the weights are drawn at random: source names a shape, and nothing is scored."""


@dataclass(frozen=True)
class Training:
    """How to train: the same for every method unless the suite's method block says otherwise."""

    data: tuple[tuple[str, float], ...]
    """(task name, weight) of each training set in the mixture."""
    steps: int | None
    """Optimizer steps; exactly one of steps, epochs, tokens and seconds is given."""
    epochs: float | None
    """Draws as a multiple of all training examples; in a mixture, weights decide how often each set comes."""
    tokens: int | None
    """Non-padding data tokens after which training stops, at the end of the step that reaches them."""
    batch_size: int
    """Examples per optimizer step."""
    micro_batch_size: int
    """Examples per forward pass; gradients accumulate to those of the whole batch."""
    sequence_length: int
    """Longest example in data tokens (virtual tokens come on top); longer ones are cut from the prompt's left."""
    learning_rate: float
    optimizer: str
    schedule: str
    """``constant``, ``linear`` or ``cosine``: what follows the learning rate's warm-up."""
    warmup_ratio: float
    """Share of the steps over which the learning rate rises linearly from zero."""
    weight_decay: float
    clip_norm: float | None
    """Largest gradient norm; None for no clipping."""
    gradient_checkpointing: bool
    loss_on: str
    """``completion`` or ``all``: which tokens bear loss."""
    score: str
    """``last``: the last step's weights are scored; ``best_on_validation``: those of the lowest validation loss."""
    validate_every: int | None
    """Steps between validation losses; None for none (needed for ``best_on_validation``)."""
    untimed_steps: int
    """First steps that train and count but are left out of steady-state rates."""
    seconds: float | None = late(default=None)
    """Seconds of steps after which training stops, at the end of the step that reaches them."""
    group_by_length: bool = late(default=False)
    """Whether a step's examples are of like length, which leaves less padding; the same steps for every method."""
    packing: bool = late(default=False)
    """Whether examples share rows of at most ``sequence_length`` tokens, each seeing itself only; else none does."""
    profile: str | None = late(default=None)
    """``paper`` or ``shared``, where that changed the cell; None for each method's own recipe."""


@dataclass(frozen=True)
class Evaluation:
    """How to score: always the same for every method."""

    batch_size: int | None
    """Most prompts per forward pass; scores do not depend on it. None for as many as there is room for."""
    max_length: int
    """Longest prompt plus answer in data tokens, the same for every method (virtual tokens come on top)."""
    split: str
    """``test`` or ``validation``."""


@dataclass(frozen=True)
class Trial:
    """One cell of the grid with one seed: everything that decides a row's numbers."""

    suite: str
    cell: str
    """Readable name of the grid cell, the same for all its seeds: ``lora r=8 bf16``."""
    base: Base
    method: str
    precision: str
    rank: int | None
    """The method's size knob (LoRA's r, an adapter's width, virtual tokens); None where it has none."""
    options: Mapping[str, Any]
    """The method's own settings, every default filled in."""
    seed: int | None
    """Governs initialisation, data order and dropout; None for the untuned base."""
    tasks: tuple[Task, ...]
    """Every task that is trained on or evaluated."""
    evaluate: tuple[str, ...]
    """Names of the tasks that are scored, in the suite's order."""
    training: Training | None
    """None for the untuned base."""
    evaluation: Evaluation
    device: str
    """``cpu`` or ``cuda``."""
    threads: int
    """CPU threads of the trial's process."""
    timeout_seconds: float | None = None
    """Wall time after which the trial is stopped; not part of the key."""
    inference: bool = True
    """Whether the tuned model is measured in use, in a cell's first trial; not part of the key."""
    retention: Retention | None = None
    """Text of which the loss before and after training is told; not part of the key."""
    unsupported: str | None = None
    """What cannot exist and why, as a sentence; None if the cell can exist. Not part of the key."""
    unsupported_reason: str | None = None
    """The reason alone, which cells of other methods and precisions may share; None if the cell can exist. Not part of
    the key."""
    named_settings: str | None = None
    """The cell's name without method, rank and precision; empty if nothing else is in it. Not part of the key."""
    candidate_of: str | None = None
    """The cell whose learning-rate search this is a candidate of; None for a trial of a grid. Not part of the key."""


@dataclass(frozen=True)
class Job:
    """A trial with everything its process needs to run it."""

    trial: Trial
    key: str
    base_folder: str
    """The base's files on this machine; never stored."""
    base_sha256: str
    data_sha256: str
    environment_json: str
    workers: int
    scratch: str
    """An existing folder for temporary files."""
    adapter_folder: str | None = None
    """Where to keep the tuned adapter; None to delete it after its size is known."""
    predicts: bool = False
    """Whether to predict the peak that the trial then measures; once for a cell does."""
    measures_inference: bool = False
    """Whether to measure the tuned model in use; once for a cell does."""
    budget_bytes: int | None = None
    """Memory that the trial may take: one whose training step is predicted to need more is skipped. None for no
    limit."""
    reserve_bytes: int = 0
    """Of these, what is kept for what is no tensor."""
    overlap_json: str | None = None
    """What the scored prompts have in common with the training data; see the column."""
    log: str | None = None
    """File that takes everything the trial's libraries print; None to let them print."""
