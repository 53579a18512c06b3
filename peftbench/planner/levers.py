"""What would make a cell fit its budget: the nearest settings, with the predicted peak of each. No torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from peftbench.methods import method_of, strategies
from peftbench.planner.records import Lever
from peftbench.records import Trial

EIGHT_BIT: Mapping[str, str] = MappingProxyType(
    {
        "adamw": "adamw_8bit",
        "paged_adamw": "paged_adamw_8bit",
        "lion": "lion_8bit",
        "paged_lion": "paged_lion_8bit",
        "ademamix": "ademamix_8bit",
    }
)
"""Optimizer -> the same with its state in 8 bits."""
_SMALLER = ("bf16", "nf4")
"""Precisions that take less memory than fp32, for a frozen base."""
_TRAINED = ("bf16-true",)
"""The same for a base that is trained."""

Peak = Callable[[Trial], int | None]
"""Gives the predicted peak of a trial in bytes; None if there is no prediction."""


def with_settings(trial: Trial, settings: Mapping[str, Any]) -> Trial:
    """Return a trial with other settings: a precision, and keys of ``train``."""
    assert trial.training is not None
    train = {key: value for key, value in settings.items() if key != "precision"}
    precision = settings.get("precision", trial.precision)
    return replace(trial, precision=precision, training=replace(trial.training, **train))


def nearest(trial: Trial, peak: Peak, available: int) -> tuple[Lever, ...]:
    """Return the settings that were tried, those that change least first; the last one fits if any does.

    First come those that change no score: smaller micro-batches, and gradient checkpointing. Then an optimizer with
    8-bit state, and a smaller precision. If not even all of them together fit, only that is returned.

    Args:
        trial: a trial that does not fit.
        peak: predicts a trial's peak.
        available: bytes that its tensors may take.
    """
    assert trial.training is not None
    options = list(_combinations(trial))
    if not options:
        return ()
    found: list[Lever] = []
    cache: dict[str, Lever] = {}

    def tried(settings: Mapping[str, Any]) -> Lever:
        key = repr(sorted(settings.items()))
        if key not in cache:
            size = peak(with_settings(trial, settings))
            cache[key] = Lever(settings, size, size is not None and size <= available)
        return cache[key]

    everything = tried(options[-1])
    if not everything.fits:
        return (everything,)
    for settings in options:
        found.append(tried(settings))
        if found[-1].fits:
            break
    if "micro_batch_size" in found[-1].settings:
        found[-1] = _largest(found[-1], trial.training.micro_batch_size, tried)
    return tuple(found)


def _largest(lever: Lever, most: int, tried: Callable[[Mapping[str, Any]], Lever]) -> Lever:
    """Return a lever with the largest micro-batch that still fits, among halves of the cell's own."""
    size = most // 2
    while size > 1:
        larger = tried({**lever.settings, "micro_batch_size": size})
        if larger.fits:
            return larger
        size //= 2
    return lever


def _combinations(trial: Trial) -> Iterator[dict[str, Any]]:
    """Yield settings to try, from those that change least to all together; none twice."""
    neutral, eight, precisions = _steps(trial)
    both = {key: value for step in neutral for key, value in step.items()}
    candidates = [*neutral, both, eight, {**both, **eight}]
    for precision in precisions:
        candidates += [precision, {**both, **precision}, {**both, **eight, **precision}]
    seen: list[dict[str, Any]] = [{}]
    for settings in candidates:
        if settings not in seen and _exists(trial, settings):
            seen.append(settings)
            yield settings


def _steps(trial: Trial) -> tuple[list[dict[str, Any]], dict[str, Any], list[dict[str, Any]]]:
    """Return the single settings: those that change no score, an optimizer, and precisions."""
    training = trial.training
    assert training is not None
    method = method_of(trial.method, trial.options)
    neutral: list[dict[str, Any]] = []
    one = {"micro_batch_size": 1}
    if training.micro_batch_size > 1 and _exists(trial, one):
        neutral.append(one)
    checkpoints = {"gradient_checkpointing": True}
    if training.gradient_checkpointing is not True and _exists(trial, checkpoints):
        neutral.append(checkpoints)
    eight = {"optimizer": EIGHT_BIT[training.optimizer]} if training.optimizer in EIGHT_BIT else {}
    if trial.precision.startswith(("nf4", "fp4", "stored")):
        return neutral, eight, []
    whole = trial.precision in ("fp32", "tf32")
    smaller = _TRAINED if method.trains_base else _SMALLER if whole else _SMALLER[1:]
    known = [name for name in smaller if name in method.precisions and name != trial.precision]
    return neutral, eight, [{"precision": name} for name in known]


def _exists(trial: Trial, settings: Mapping[str, Any]) -> bool:
    made = with_settings(trial, settings)
    method = method_of(made.method, made.options)
    refused = strategies.refusal_of_cell(method, made.precision, made.device, made.training, made.options, made.devices)
    return refused is None
