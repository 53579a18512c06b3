"""Smoke mode: every cell of a suite in two steps on the base that ships, whatever the suite's own base and data are.

It proves that a suite's methods, options, precisions and training settings go through a whole trial here; its numbers
mean nothing. Base, data and hub are not touched. What is made for another architecture is made to fit, and told.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from peftbench.methods import method_of
from peftbench.methods.record import shown
from peftbench.models import builtin as models_builtin
from peftbench.records import Base, Retention, Task, Training, Trial
from peftbench.suite import trial_key
from peftbench.suite.expand import expand
from peftbench.suite.records import Suite
from peftbench.tasks import TASKS

BASE = "nano"
STEPS, BATCH, LENGTH, EXAMPLES = 2, 2, 64, 2
"""Optimizer steps, examples of each, tokens of an example, examples that are scored of each task."""
WORKERS = 4
"""Most trials at the same time, since no time matters; each takes half a gigabyte."""
SUFFIX = "-smoke"
"""Of the suite's name in the rows, and of the results folder."""
_FALLBACK = "compute"
"""The built-in task that stands for one of a kind that no built-in task has."""


@dataclass(frozen=True)
class Smoke:
    """What smoke mode runs."""

    trials: tuple[Trial, ...]
    notes: tuple[str, ...]
    """What was changed to fit, and which cells are the same as others here."""


def smoked(suite: Suite) -> Suite:
    """Return a suite for smoke mode: on the base that ships and the device that is there, one seed, all cores."""
    workers = min(WORKERS, os.cpu_count() or 1)
    named = replace(suite, name=suite.name + SUFFIX, smoke=True, strict=False)
    return replace(named, base=Base(BASE), device="auto", seeds=suite.seeds[:1], threads=1, workers=workers)


def smoke(suite: Suite, device: str) -> Smoke:
    """Return a small trial for each cell of a suite, in its order.

    Args:
        suite: what ``smoked`` returned.
        device: as for ``expand``.

    Raises:
        UserError: as ``expand``: settings that exclude each other are told here too.
    """
    found: dict[str, Trial] = {}
    notes = [f"smoke mode: {STEPS} steps of {BATCH} examples on {BASE}; the suite's own base and data are not touched"]
    for trial in expand(suite, device):
        made, changes = _small(trial)
        notes += [f"{trial.cell}: {change}" for change in changes]
        first = found.setdefault(json.dumps(trial_key.settings(made), sort_keys=True, default=list), made)
        if first is not made:
            notes.append(f"{trial.cell}: not run, here the same as {first.cell}")
    return Smoke(tuple(found.values()), tuple(notes))


def _small(trial: Trial) -> tuple[Trial, list[str]]:
    """Return a trial made small, and what was changed of its method."""
    made, changes = _fitted(trial)
    evaluation = replace(trial.evaluation, max_length=LENGTH, split="validation")
    return (
        replace(
            made,
            tasks=tuple(map(_task, trial.tasks)),
            training=_training(trial.training) if trial.training else None,
            evaluation=replace(evaluation, batch_size=evaluation.batch_size and BATCH),
            inference=False,
            retention=Retention(str(models_builtin.held_out(BASE)), limit=EXAMPLES),
        ),
        changes,
    )


def _task(task: Task) -> Task:
    """Return a built-in task of the same kind under the same name."""
    builtin = task.builtin or next((name for name, known in TASKS.items() if known.kind == task.kind), _FALLBACK)
    known = TASKS[builtin]
    tokens = min(task.max_new_tokens, known.max_new_tokens)
    return Task(task.name, known.kind, builtin=builtin, max_new_tokens=tokens, limit=EXAMPLES)


def _training(training: Training) -> Training:
    """Return the training in two steps; a suite that accumulates gradients still does."""
    return replace(
        training,
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
    """Return the names of the base's modules that hold weights, from the head of their file."""
    with (models_builtin.folder(BASE) / "model.safetensors").open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        names = json.loads(file.read(size))
    return tuple(name.removesuffix(".weight") for name in names if name != "__metadata__")


def _fitted(trial: Trial) -> tuple[Trial, list[str]]:
    """Return a trial whose method fits the base: names of its modules, its depth, width and vocabulary."""
    width, record = _config()["hidden_size"], method_of(trial.method, trial.options)
    options, changes = dict(trial.options), []
    for name, value in trial.options.items():
        fit = _FITS.get(name)
        made = value if fit is None or value is None else fit(value)
        if made == value:
            continue
        if made:
            options[name] = made
        elif record.variant:  # of a library's tuner only what is given is an option
            del options[name]
        else:
            options[name] = record.options[name].default
        told = shown(options[name]) if name in options else "left out"
        changes.append(f"{name} {shown(value)} is for another model; here {told}")
    if trial.rank is not None and trial.rank > width:
        changes.append(f"{record.rank_key} {trial.rank} is more than {BASE} is wide; here {width}")
    return replace(trial, options=options, rank=None if trial.rank is None else min(trial.rank, width)), changes


def _there(pattern: str) -> bool:
    """Whether a module's whole name, or its end, is so called or matches the expression."""
    try:
        return any(re.fullmatch(rf"(.*\.)?({pattern})", name) for name in _modules())
    except re.error:
        return False


def _named(value: Any) -> Any:
    """Return the names of modules that are there; a word for several of them stays."""
    if isinstance(value, str):
        return value if value in _WORDS or _there(value) else None
    return [name for name in value if name in _WORDS or _there(re.escape(name))]


def _patterned(value: Mapping[str, int]) -> dict[str, int]:
    return {pattern: size for pattern, size in value.items() if _there(pattern)}


def _layers(value: int | list[int]) -> Any:
    depth = _config()["num_hidden_layers"]
    return min(value, depth) if isinstance(value, int) else [layer for layer in value if layer < depth]


def _tokens(value: list[int]) -> list[int]:
    return [token % _config()["vocab_size"] for token in value]


_WORDS = ("all-linear", "attention", "norms", "biases")
_FITS: Mapping[str, Callable[[Any], Any]] = {
    **dict.fromkeys(("target_modules", "modules", "exclude_modules", "modules_to_save"), _named),
    **dict.fromkeys(("rank_pattern", "alpha_pattern"), _patterned),
    **dict.fromkeys(("layers", "adapter_layers", "layers_to_transform"), _layers),
    **dict.fromkeys(("token_indices", "cpt_token_ids"), _tokens),
    "target_r": lambda value: min(value, _config()["hidden_size"]),
}
"""Option to what makes its value fit; nothing left of it means the method's default."""
