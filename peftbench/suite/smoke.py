"""Smoke mode: run every cell of a suite for two steps on the built-in base model and data instead of the suite's own.

It checks that the suite's methods, options, precisions and training settings complete a whole trial on this machine.
Its numbers mean nothing. The suite's base model and data are not read, and nothing is downloaded. Options that name
parts of another architecture are changed to fit, with a note for each change.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from peftbench.methods import Method, method_of
from peftbench.methods.record import shown
from peftbench.models import builtin as models_builtin
from peftbench.records import HEADS, Base, Retention, Task, Training, Trial, patterns
from peftbench.suite import trial_key
from peftbench.suite.expand import expand
from peftbench.suite.records import Suite
from peftbench.tasks import TASKS
from peftbench.tasks.builtin import judge
from peftbench.tasks.reach import DECODED

BASE = "nano"
RATE = 1e-2
"""Smallest learning rate, except where the base's own weights train: two steps of a smaller one can be lost in the
rounding of a 16-bit base, and the trial would be ``inert``."""
STEPS, BATCH, LENGTH, EXAMPLES = 2, 2, 64, 2
"""Optimizer steps, examples per step, tokens per example, scored examples per task."""
WORKERS = 4
"""Most trials at the same time. Timing does not matter here; each trial takes half a gigabyte."""
SUFFIX = "-smoke"
"""Added to the suite's name in the rows, and so to the default results folder."""
_CLASSES = "judge"
"""The built-in task whose classes a head learns, or for regression their positions."""
_FALLBACK = "compute"
"""The built-in task that replaces a task of a kind that no built-in task has."""


@dataclass(frozen=True)
class Smoke:
    """What smoke mode runs."""

    trials: tuple[Trial, ...]
    notes: tuple[str, ...]
    """Options that were changed to fit, and cells that are not run because they are now the same as another."""


def as_smoke_suite(suite: Suite) -> Suite:
    """Return a suite for smoke mode: the built-in base model, the machine's device, one seed, a thread per trial."""
    workers = min(WORKERS, os.cpu_count() or 1)
    named = replace(suite, name=suite.name + SUFFIX, smoke=True, strict=False)
    return replace(named, base=Base(BASE), device="auto", seeds=suite.seeds[:1], threads=1, workers=workers)


def smoke(suite: Suite, device: str) -> Smoke:
    """Return a small trial for each cell of a suite, in its order.

    Args:
        suite: a suite from ``as_smoke_suite``.
        device: as for ``expand``.

    Raises:
        UserError: as ``expand`` does.
    """
    found: dict[str, Trial] = {}
    notes = [
        f"smoke mode: {STEPS} steps of {BATCH} examples on {BASE}; the suite's own base model and data are not read, "
        f"and learning rates below {RATE} are raised to {RATE}, except for full fine-tuning"
    ]
    for trial in expand(suite, device):
        made, changes = _small(trial)
        notes += [f"{trial.cell}: {change}" for change in changes]
        first = found.setdefault(json.dumps(trial_key.settings(made), sort_keys=True, default=list), made)
        if first is not made:
            notes.append(f"{trial.cell}: not run, in smoke mode it is the same as {first.cell}")
    return Smoke(tuple(found.values()), tuple(notes))


def _small(trial: Trial) -> tuple[Trial, list[str]]:
    """Return a trial made small, and notes on what was changed in its method."""
    made, changes = _fit(trial)
    evaluation = replace(trial.evaluation, max_length=LENGTH, split="validation")
    return (
        replace(
            made,
            tasks=tuple(map(_task, trial.tasks)),
            training=_training(trial.training, method_of(trial.method, trial.options)) if trial.training else None,
            evaluation=replace(evaluation, batch_size=evaluation.batch_size and BATCH),
            inference=False,
            deployed=trial.deployed,
            retention=None if trial.head else Retention(str(models_builtin.held_out(BASE)), limit=EXAMPLES),
        ),
        changes,
    )


def _task(task: Task) -> Task:
    """Return a built-in task of the same kind under the same name; for a head, one with classes."""
    if task.kind in HEADS:
        metric = task.metric if task.kind == "classification" else None
        return Task(task.name, task.kind, builtin=_CLASSES, choices=judge.CHOICES, limit=EXAMPLES, metric=metric)
    builtin = task.builtin or next((name for name, known in TASKS.items() if known.kind == task.kind), _FALLBACK)
    known = TASKS[builtin]
    tokens = min(task.max_new_tokens or known.max_new_tokens, known.max_new_tokens)  # a task of lm-eval may give none
    made = Task(task.name, known.kind, builtin=builtin, max_new_tokens=tokens, limit=EXAMPLES)
    search = {key: getattr(task, key) for key in ("num_beams", "length_penalty", "no_repeat_ngram_size")}
    return replace(made, **search) if known.kind in DECODED else made


def _training(training: Training, method: Method) -> Training:
    """Return the training settings for ``STEPS`` steps; gradient accumulation is kept."""
    return replace(
        training,
        learning_rate=training.learning_rate if method.trains_base else max(RATE, training.learning_rate),
        steps=STEPS,
        epochs=None,
        tokens=None,
        seconds=None,
        batch_size=BATCH,
        micro_batch_size=BATCH if training.micro_batch_size == training.batch_size else 1,
        sequence_length=min(LENGTH, training.sequence_length),
        validate_every=1 if training.validate_every else None,
        untimed_steps=min(1, training.untimed_steps),
    )


@cache
def _config() -> Mapping[str, Any]:
    found: dict[str, Any] = json.loads((models_builtin.folder(BASE) / "config.json").read_text(encoding="utf-8"))
    return found


@cache
def _modules() -> tuple[str, ...]:
    """Return the names of the built-in base model's modules with weights, from the header of its weight file."""
    with (models_builtin.folder(BASE) / "model.safetensors").open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        names = json.loads(file.read(size))
    return tuple(name.removesuffix(".weight") for name in names if name != "__metadata__")


def _fit(trial: Trial) -> tuple[Trial, list[str]]:
    """Return a trial whose options fit the built-in base model's module names, depth, width and vocabulary."""
    width, record = _config()["hidden_size"], method_of(trial.method, trial.options)
    options, changes = dict(trial.options), []
    for name, value in trial.options.items():
        fit = _FITS.get(name)
        made = value if fit is None or value is None else fit(value)
        if made == value:
            continue
        if made:
            options[name] = made
        elif record.variant:  # a tuner of a library has only the options that are given
            del options[name]
        else:
            options[name] = record.options[name].default
        used = shown(options[name]) if name in options else "the tuner's default"
        changes.append(f"{name} {shown(value)} is for another model; smoke mode uses {used}")
    # LoRA-GA takes different directions for A and B, so it needs twice the rank
    starts = options.get("initialization"), options.get("init_lora_weights")
    largest = width // 2 if "lora_ga" in starts else width
    if trial.rank is not None and trial.rank > largest:
        limit = f"the width of {BASE}" if largest == width else f"half the width of {BASE}, which is LoRA-GA's largest"
        changes.append(f"{record.rank_key} {trial.rank} exceeds {limit}; smoke mode uses {largest}")
    return replace(trial, options=options, rank=None if trial.rank is None else min(trial.rank, largest)), changes


def _exists(pattern: str) -> bool:
    """Whether a regular expression matches the whole name of a module, or its last parts."""
    try:
        return patterns.matches(rf"(.*\.)?({pattern})", _modules())
    except re.error:
        return False


def _existing_names(value: Any) -> Any:
    """Return the names of modules that exist; words that name several modules are kept."""
    if isinstance(value, str):
        return value if value in _WORDS or _exists(value) else None
    return [name for name in value if name in _WORDS or _exists(re.escape(name))]


def _existing_patterns(value: Mapping[str, int]) -> dict[str, int]:
    return {pattern: size for pattern, size in value.items() if _exists(pattern)}


def _existing_layers(value: int | list[int]) -> Any:
    depth = _config()["num_hidden_layers"]
    return min(value, depth) if isinstance(value, int) else [layer for layer in value if layer < depth]


def _existing_tokens(value: list[int]) -> list[int]:
    return [token % _config()["vocab_size"] for token in value]


_WORDS = ("all-linear", "attention", "norms", "biases")
_FITS: Mapping[str, Callable[[Any], Any]] = {
    **dict.fromkeys(("target_modules", "modules", "exclude_modules", "modules_to_save"), _existing_names),
    **dict.fromkeys(("rank_pattern", "alpha_pattern"), _existing_patterns),
    **dict.fromkeys(("layers", "adapter_layers", "layers_to_transform"), _existing_layers),
    **dict.fromkeys(("token_indices", "cpt_token_ids"), _existing_tokens),
    "target_r": lambda value: min(value, _config()["hidden_size"]),
}
"""For each option, the function that makes its value fit. If nothing is left, the method's default is used."""
