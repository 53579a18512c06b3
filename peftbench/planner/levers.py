"""What would make a cell fit its budget: the nearest settings, with the predicted peak of each. No torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from peftbench.methods import method_of, strategies
from peftbench.planner.records import Lever
from peftbench.records import OPTIMIZERS, Trial

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

Settings = Mapping[str, Any]
"""A precision, options of the method, and keys of ``train``."""
Peak = Callable[[Trial], int | None]
"""Gives the predicted peak of a trial in bytes; None if there is no prediction."""


def with_settings(trial: Trial, settings: Mapping[str, Any]) -> Trial:
    """Return a trial with other settings: a precision, options of the method, and keys of ``train``."""
    assert trial.training is not None
    own = method_of(trial.method, trial.options).options
    options = {key: value for key, value in settings.items() if key in own}
    train = {key: value for key, value in settings.items() if key != "precision" and key not in own}
    return replace(
        trial,
        precision=settings.get("precision", trial.precision),
        options={**trial.options, **options} if options else trial.options,
        training=replace(trial.training, **train),
    )


def nearest(trial: Trial, peak: Peak, available: int, own: int | None = None) -> tuple[Lever, ...]:
    """Return the settings that were tried, those that change least first; the last one fits if any does.

    First come those that change no score: smaller micro-batches, gradient checkpointing, fewer logits, and on a GPU
    what the host can hold. Then an optimizer with 8-bit state; in full fine-tuning layers in turns, and steps in the
    backward pass; and a smaller precision. If not even all that go together fit, only those that need least are
    returned, and none if they need as much as the cell.

    Args:
        trial: a trial that does not fit.
        peak: predicts a trial's peak.
        available: bytes that its tensors may take.
        own: the predicted peak of the trial itself; None to predict it if it is needed.
    """
    assert trial.training is not None
    options, most = _combinations(trial)
    found: list[Lever] = []
    cache: dict[str, Lever] = {}

    def tried(settings: Mapping[str, Any]) -> Lever:
        key = repr(sorted(settings.items()))
        if key not in cache:
            size = peak(with_settings(trial, settings))
            cache[key] = Lever(settings, size, size is not None and size <= available)
        return cache[key]

    if not any(tried(settings).fits for settings in most):
        return _least(trial, [tried(settings) for settings in most], peak, own)
    for settings in options:
        found.append(tried(settings))
        if found[-1].fits:
            break
    if "micro_batch_size" in found[-1].settings:
        found[-1] = _largest(found[-1], trial.training.micro_batch_size, tried)
    return tuple(found)


def _least(trial: Trial, every: Sequence[Lever], peak: Peak, own: int | None) -> tuple[Lever, ...]:
    """Return the lever that needs least, if it needs less than the trial itself, or if nothing is known of it."""
    known = [lever for lever in every if lever.peak_bytes is not None]
    if not known:
        return tuple(every[:1])
    best = min(known, key=lambda lever: lever.peak_bytes or 0)
    own = peak(trial) if own is None else own
    return (best,) if own is None or (best.peak_bytes or 0) < own else ()


def _largest(lever: Lever, most: int, tried: Callable[[Mapping[str, Any]], Lever]) -> Lever:
    """Return a lever with the largest micro-batch that still fits, among the cell's own and its halves."""
    rest = {key: value for key, value in lever.settings.items() if key != "micro_batch_size"}
    if rest and (whole := tried(rest)).fits:
        return whole
    size = most // 2
    while size > 1:
        larger = tried({**lever.settings, "micro_batch_size": size})
        if larger.fits:
            return larger
        size //= 2
    return lever


def _combinations(trial: Trial) -> tuple[list[Settings], list[Settings]]:
    """Return settings to try, from those that change least, none twice; and of these the largest combinations."""
    neutral = [step for step in _neutral(trial) if _exists(trial, step)]
    both = {key: value for step in neutral for key, value in step.items()}
    eight = _eight(trial)
    singles = [*neutral, both, _on_host(trial, {}), _on_host(trial, both), eight, {**both, **eight}]
    largest = [_on_host(trial, {**both, **eight})]
    for other in _of_whole_models(trial):
        fits = {key: value for key, value in both.items() if _exists(trial, {**other, key: value})}
        singles.append({**fits, **other})
        largest.append(_on_host(trial, {**fits, **other}))
    tried = [*singles, *largest]
    most = largest
    for precision in _precisions(trial):
        least = {"precision": precision}
        most = [_on_host(trial, {**each, **least}) for each in largest]
        tried += [least, {**both, **least}, _on_host(trial, {**both, **least}), *most]
    return _different(trial, tried), _different(trial, most)


def _different(trial: Trial, candidates: Iterable[Settings]) -> list[Settings]:
    """Return those settings that exist and change something, each once."""
    seen: list[Settings] = []
    for settings in candidates:
        if settings and settings not in seen and _exists(trial, settings):
            seen.append(settings)
    return seen


def _neutral(trial: Trial) -> Iterator[Settings]:
    """Yield the single settings that change no score."""
    training = trial.training
    assert training is not None
    if training.micro_batch_size > 1:
        yield {"micro_batch_size": 1}
    if training.gradient_checkpointing is not True:
        yield {"gradient_checkpointing": True}
    if training.logits != "chunked" and trial.head is None:
        yield {"logits": "chunked"}


def _on_host(trial: Trial, settings: Settings) -> Settings:
    """Return settings with the most that the host can hold of a GPU's step, if it can hold anything."""
    assert trial.training is not None
    if trial.device != "cuda" or trial.training.offload != "none":
        return settings
    each = ({**settings, "offload": what} for what in ("all", "optimizer", "activations"))
    return next((made for made in each if _exists(trial, made)), settings)


def _eight(trial: Trial) -> Settings:
    assert trial.training is not None
    optimizer = trial.training.optimizer
    return {"optimizer": EIGHT_BIT[optimizer]} if optimizer in EIGHT_BIT else {}


def _of_whole_models(trial: Trial) -> Iterator[Settings]:
    """Yield what saves gradients and optimizer state in full fine-tuning: layers in turns, steps as gradients come."""
    assert trial.training is not None
    if not method_of(trial.method, trial.options).trains_base:
        return
    if trial.options.get("turns") == "none":
        yield {"turns": "badam"}
    if not OPTIMIZERS[trial.training.optimizer].in_backward:
        yield {"optimizer": "adafactor_in_backward", "clip_norm": None}
        yield {"optimizer": "lomo", "clip_norm": None}


def _precisions(trial: Trial) -> list[str]:
    """Return the smaller precisions of a method, from those that change least."""
    if trial.precision.startswith(("nf4", "fp4", "stored")):
        return []
    method = method_of(trial.method, trial.options)
    whole = trial.precision in ("fp32", "tf32")
    smaller = _TRAINED if method.trains_base else _SMALLER if whole else _SMALLER[1:]
    return [name for name in smaller if name in method.precisions and name != trial.precision]


def _exists(trial: Trial, settings: Settings) -> bool:
    made = with_settings(trial, settings)
    method = method_of(made.method, made.options)
    refused = strategies.refusal_of_cell(method, made.precision, made.device, made.training, made.options, made.devices)
    return refused is None
