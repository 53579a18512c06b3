"""A trial, and everything that decides its numbers, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from peftbench.records.attention import AUTO
from peftbench.records.devices import Devices
from peftbench.records.task import HEADS, Task


@dataclass(frozen=True)
class Retention:
    """General text on which a trial's loss is measured before and after training."""

    file: str | None = None
    """Plain text, or CSV, TSV, JSON, JSONL or Parquet. Either file or dataset is given."""
    field: str = "text"
    """The field with the text, if the source has records."""
    separator: str = "\n\n"
    """The separator between texts in a plain text file."""
    limit: int | None = 200
    """Number of texts that are used, a seeded draw; None for all."""
    dataset: str | None = None
    """Hugging Face dataset: a hub id, or a local folder."""
    config: str | None = None
    revision: str | None = None
    split: str = "test"
    """Split of the dataset."""
    encoding: str | None = None
    delimiter: str | None = None
    quoting: str | None = None
    """How a file is read: see ``Task``."""

    @property
    def source(self) -> str:
        """The source's name in messages."""
        return str(self.file or f"dataset {self.dataset!r}")


@dataclass(frozen=True)
class Base:
    """The base model as the suite names it."""

    source: str
    """A built-in base model (``nano``), a local folder, or a Hugging Face hub id; with random weights, a shape."""
    revision: str | None = None
    """Branch, tag or commit of a hub id."""
    trust_remote_code: bool = False
    """Whether code that comes with the weights may run."""
    random_weights: bool = False
    """Whether the weights are random. Then source names a shape, and nothing is scored."""


@dataclass(frozen=True)
class Training:
    """How to train: the same for every method unless the suite's block of a method has other settings."""

    data: tuple[tuple[str, float], ...]
    """(task name, weight) of each training set in the mixture."""
    steps: int | None
    """Optimizer steps. Exactly one of steps, epochs, tokens and seconds is given."""
    epochs: float | None
    """Drawn examples as a multiple of all training examples. In a mixture, weights decide how often a set is drawn."""
    tokens: int | None
    """Non-padding data tokens after which training stops, at the end of the step that reaches them."""
    batch_size: int
    """Examples per optimizer step."""
    micro_batch_size: int
    """Examples per forward pass; gradients are accumulated over the batch."""
    sequence_length: int
    """Most data tokens of an example (virtual tokens come on top); longer prompts are cut on the left."""
    learning_rate: float
    optimizer: str
    schedule: str
    """``constant``, ``linear`` or ``cosine``: the learning rate after the warm-up."""
    warmup_ratio: float
    """Share of the steps over which the learning rate rises linearly from zero."""
    weight_decay: float
    clip_norm: float | None
    """Largest gradient norm; None for no clipping."""
    gradient_checkpointing: bool | int | str
    """What is computed again in the backward pass: False for nothing, True for every decoder layer, n for every n-th,
    ``selective`` for all of every layer but its matrix products. Losses are the same bit for bit."""
    loss_on: str
    """``completion`` or ``all``: which tokens enter the loss."""
    score: str
    """Which weights are scored: ``last``, or ``best_on_validation`` for those with the lowest validation loss."""
    validate_every: int | None
    """Steps between validation losses; None for none (needed for ``best_on_validation``)."""
    untimed_steps: int
    """Number of first steps that are excluded from the rates over steady steps; they train like the others."""
    seconds: float | None = None
    """Time in training steps after which training stops, at the end of the step that reaches it."""
    group_by_length: bool = False
    """Whether a step's examples have similar lengths, for less padding; the steps are the same for all methods."""
    packing: bool = False
    """Whether examples share rows of at most ``sequence_length`` tokens, without attention between examples."""
    profile: str | None = None
    """``paper`` or ``shared`` if that changed the cell's settings; None for the method's own recipe."""
    logits: str = "all"
    """Where logits are made: ``all`` positions, those in the loss (``loss_bearing``), or these in chunks that are
    computed twice (``chunked``) or within liger's operator (``liger``). The loss is the same up to rounding."""
    offload: str = "none"
    """What is kept on the host between its uses: ``none``, ``activations``, ``weights`` that are frozen, the
    ``optimizer`` with gradients and state, or ``all``. Losses are the same, bit for bit if the host is the device."""
    attention: str = AUTO
    """How attention is computed, by transformers' name, in training and in scoring."""
    compute: str = "auto"
    """``fp8`` to multiply in 8-bit floats in training, in the base model's linear layers; ``auto`` as the precision
    says."""
    compile: str = "none"
    """What ``torch.compile`` compiles of a training step: ``none``, or the decoder ``layers``. Losses are the same up
    to rounding; everything else, scoring among it, computes without it."""
    kernels: str = "none"
    """What computes norms, rotary position embeddings and gated MLPs of a training step: the base model's own code for
    ``none``, or the kernels of ``liger``. Losses are the same up to rounding; scoring computes without them."""

    def offloads(self, what: str) -> bool:
        """Return whether ``activations``, ``weights`` or the ``optimizer`` are kept on the host."""
        return self.offload in (what, "all")


@dataclass(frozen=True)
class Evaluation:
    """How to score: the same for every method."""

    batch_size: int | None
    """Most prompts per forward pass; scores do not depend on it. None for as many as fit in memory."""
    max_length: int
    """Most data tokens of a prompt with its answer, the same for every method (virtual tokens come on top)."""
    split: str
    """``test`` or ``validation``."""
    generation: str = "greedy"
    """Where the parameters of decoding come from: ``greedy``, peftbench's own; or ``base``, the base model's
    ``generation_config``."""


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
    """LoRA's r, an adapter's width, or virtual tokens; None if the method has no rank."""
    options: Mapping[str, Any]
    """The method's own settings, including defaults."""
    seed: int | None
    """Seed of initialisation, data order and dropout; None for the untuned base model."""
    tasks: tuple[Task, ...]
    """Every task that is trained on or evaluated."""
    evaluate: tuple[str, ...]
    """Names of the tasks that are scored, in the suite's order."""
    training: Training | None
    """None for the untuned base model."""
    evaluation: Evaluation
    device: str
    """``cpu`` or ``cuda``."""
    threads: int
    """CPU threads of the trial's process; of each process if it has several."""
    devices: Devices | None = None
    """The devices that share the trial; None for one, which the key does not mention."""
    timeout_seconds: float | None = None
    """Wall time after which the trial is stopped; not part of the key."""
    phase_timeouts: tuple[tuple[str, float], ...] = ()
    """(phase, seconds) after which the trial is stopped if it is still in that phase; not part of the key."""
    checkpoint_every_seconds: float | None = None
    """Time after which the state of training is saved again; None for never. Not part of the key."""
    inference: bool = True
    """Whether inference cost is measured in the cell's first trial."""
    retention: Retention | None = None
    """Text on which the loss is measured before and after training; None for none."""
    deployed: tuple[str, ...] = ()
    """Forms in which the tuned model is scored once more, as it would be deployed (``methods.deployed_forms``)."""
    unsupported: str | None = None
    """What cannot exist and why, as a sentence; None if the cell can exist. Not part of the key."""
    unsupported_reason: str | None = None
    """The reason alone, which cells of other methods and precisions may share; None if the cell can exist. Not part of
    the key."""
    named_settings: str | None = None
    """The cell's name without method, rank and precision; empty if nothing else is in it. Not part of the key."""
    learning_rate_source: str | None = None
    """``suite``, ``search``, ``paper``, ``recipe`` or ``rule``: where the rate is from. Not part of the key."""
    defaults: Mapping[str, str] | None = None
    """Setting -> why it has its value, of settings that follow from the base model and the data. Not part of the
    key."""
    candidate_of: str | None = None
    """The cell whose learning-rate search this is a candidate of; None for a trial of a grid. Not part of the key."""

    @property
    def head(self) -> Head | None:
        """The head that the trial's only task puts on the base model; None if the task is to predict tokens."""
        task = next((task for task in self.tasks if task.kind in HEADS), None)
        if task is None:
            return None
        return Head(len(task.choices) if task.kind == "classification" else 1, self.seed or 0)


@dataclass(frozen=True)
class Head:
    """A head for a whole text, in place of the one that predicts tokens."""

    outputs: int
    """A logit per class, or 1 for regression; 0 for classes that are not read from the data yet."""
    seed: int
    """Seed of its initialization, the same for every method."""


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
    """Where to keep the tuned adapter; None to delete it when its size has been measured."""
    predicts: bool = False
    """Whether to predict the memory peak that the trial measures; true for one trial of each cell."""
    measures_inference: bool = False
    """Whether to measure inference cost; true for one trial of each cell."""
    budget_bytes: int | None = None
    """Memory that a training step may need, in bytes: a trial that is predicted to need more is skipped. None for no
    limit."""
    reserve_bytes: int = 0
    """The part of the budget that is reserved for non-tensor memory, in bytes."""
    host_bytes: int | None = None
    """Memory of its machine that it is predicted to need, in bytes, where an executor places trials by it; None for
    none."""
    overlap_json: str | None = None
    """Overlap of the scored prompts with the training data; see the column of that name."""
    reading_json: str | None = None
    """What reading the trial's data found; see the column of that name."""
    classes_json: str | None = None
    """Scored examples by class; see the column of that name."""
    log: str | None = None
    """File for everything that the trial's libraries print; None to let them print."""
    visible_devices: str | None = None
    """The GPUs of the trial as ``CUDA_VISIBLE_DEVICES`` names them; None for those that its process server sees."""
