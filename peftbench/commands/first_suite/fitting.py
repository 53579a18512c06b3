"""Choose precisions, one micro-batch and checkpointing with which methods fit a budget, by the planner."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from peftbench.methods import method_of
from peftbench.methods.support import refusal
from peftbench.planner import cuda_reserve, levers
from peftbench.planner.records import Question
from peftbench.records import Trial
from peftbench.records.units import memory

Settings = Mapping[str, Any]
_NEARLY = 1.05
"""How much above a budget an interpolated peak must be for its exact value not to matter."""


@dataclass(frozen=True)
class Fitted:
    """What fits, and what does not."""

    settings: Mapping[str, Settings]
    """Method -> what its block needs: a precision, an optimizer; empty for its defaults."""
    peaks: Mapping[str, int]
    """Method -> predicted peak in bytes."""
    micro_batch_size: int
    gradient_checkpointing: bool
    left_out: Mapping[str, str]
    """Method -> why it does not fit."""
    unknown: Mapping[str, str] = field(default_factory=dict)
    """Method -> why there is no prediction; it stays in the suite."""
    reserves: bool = False
    """Whether the peaks contain what a GPU's process holds beside tensors."""


class _Peaks:
    """Predicted peaks, each predicted once and many at a time."""

    def __init__(self, folder: Path, reserves: bool) -> None:
        self._folder, self._reserves = folder, reserves
        self._known: dict[str, int | None] = {}
        self.problems: dict[str, str] = {}

    def learn(self, trials: Sequence[Trial]) -> None:
        """Predict the trials that are not known yet."""
        from peftbench.planner import forecast  # imports torch

        new = {_key(trial): trial for trial in trials if _key(trial) not in self._known}
        named = [replace(trial, cell=key) for key, trial in new.items()]
        for found in forecast.forecasts(named, lambda _: self._folder, Question()) if named else ():
            peak = found.found.needed_bytes if found.found else None
            if peak is not None and self._reserves:
                peak += cuda_reserve.reserve(replace(found.trial, device="cuda"))
            self._known[found.trial.cell] = peak
            if found.problem:
                self.problems[found.trial.method] = found.problem

    def known(self, trial: Trial) -> int | None:
        """Return the peak of a trial if it was predicted before."""
        return self._known.get(_key(trial))

    def of(self, trial: Trial) -> int | None:
        """Return the predicted peak of a trial."""
        self.learn([trial])
        return self._known[_key(trial)]


def fit(trials: Sequence[Trial], folder: Path, budget: int, reserves: bool) -> Fitted:
    """Return with which settings each method fits, in one micro-batch and checkpointing for all.

    A smaller micro-batch and checkpointing change no score, so they are taken before a smaller precision. All methods
    get the same, the fastest with which most of them fit.

    Args:
        trials: one trial of each method, with the settings that it would have by default.
        folder: the base model's config.
        budget: in bytes.
        reserves: whether a part of the budget is for what a GPU's process holds beside tensors.
    """
    peaks = _Peaks(folder, reserves)
    peaks.learn(trials)
    training = trials[0].training
    assert training is not None
    unknown = {t.method: peaks.problems[t.method] for t in trials if peaks.of(t) is None}
    known = [trial for trial in trials if trial.method not in unknown]
    sizes = list(_sizes(training.micro_batch_size))
    chosen: dict[str, Settings] = {}
    left_out: dict[str, str] = {}
    for trial in known:
        if (peaks.of(trial) or 0) <= budget:
            chosen[trial.method] = {}
            continue
        found, least = _smallest(trial, peaks, budget)
        if found is None:
            left_out[trial.method] = f"as it needs at least {memory(least)}"
        else:
            chosen[trial.method] = found
    micro, checkpoints, fits = _common(known, chosen, sizes, peaks, budget)
    for method in [name for name in chosen if name not in fits]:
        left_out[method] = "as it does not fit with the micro-batch and checkpointing of the others"
        del chosen[method]
    kept = {name: fits[name] for name in chosen}
    return Fitted(chosen, kept, micro, checkpoints, left_out, unknown, reserves)


def _sizes(batch: int) -> Iterator[tuple[int, bool]]:
    """Yield micro-batch sizes with and without checkpointing, the fastest first."""
    halves = [batch >> shift for shift in range(batch.bit_length()) if batch >> shift]
    for checkpoints in (False, True):
        yield from ((size, checkpoints) for size in halves if not checkpoints or size <= 8)


def _smallest(trial: Trial, peaks: _Peaks, budget: int) -> tuple[Settings | None, int]:
    """Return the first settings with which a method fits in the smallest step, and the least that it needs."""
    least: list[int] = []
    for settings in _options(trial):
        for checkpoints in (False, True):
            made = _with(trial, settings, 1, checkpoints)
            peak = peaks.of(made) if made else None
            if peak is not None:
                least.append(peak)
                if peak <= budget:
                    return settings, peak
    return None, min(least, default=0)


def _options(trial: Trial) -> Iterator[Settings]:
    """Yield a method's precisions and optimizers, from the default to what takes least."""
    method = method_of(trial.method, trial.options)
    yield {}
    if method.trains_base:
        yield {"precision": "bf16-true"}
        yield {"precision": "bf16-true", "optimizer": "adamw_8bit"}
        return
    for precision in ("bf16", "nf4"):
        if precision in method.precisions and trial.precision not in (precision, "nf4"):
            yield {"precision": precision}


def _with(trial: Trial, settings: Settings, micro: int, checkpoints: bool) -> Trial | None:
    """Return a trial with other settings; None if that combination does not exist."""
    made = levers.with_settings(trial, {**settings, "micro_batch_size": micro, "gradient_checkpointing": checkpoints})
    refused = refusal(method_of(made.method, made.options), made.precision, made.device, made.training)
    return None if refused else made


def _common(
    trials: Sequence[Trial],
    chosen: Mapping[str, Settings],
    sizes: Sequence[tuple[int, bool]],
    peaks: _Peaks,
    budget: int,
) -> tuple[int, bool, dict[str, int]]:
    """Return the micro-batch and checkpointing with which most of the chosen methods fit, and their peaks."""
    best: tuple[int, bool, dict[str, int]] = (*sizes[0], {})
    for micro, checkpoints in sizes:
        if not checkpoints and _hopeless(trials, chosen, micro, peaks, budget):
            continue
        made = [
            made
            for trial in trials
            if trial.method in chosen and (made := _with(trial, chosen[trial.method], micro, checkpoints))
        ]
        peaks.learn(made)
        each = {one.method: peak for one in made if (peak := peaks.of(one)) is not None and peak <= budget}
        if len(each) > len(best[2]):
            best = micro, checkpoints, each
        if len(each) == len(chosen):
            break
    return best


def _hopeless(trials: Sequence[Trial], chosen: Mapping[str, Settings], micro: int, peaks: _Peaks, budget: int) -> bool:
    """Return whether a micro-batch is clearly too large for some method: peaks are nearly linear in its size."""
    for trial in trials:
        batch = trial.training.micro_batch_size if trial.training else 1
        settings = chosen.get(trial.method)
        ends = [_with(trial, settings or {}, size, False) for size in (1, batch)]
        known = [peaks.known(end) if end else None for end in ends]
        if settings is None or not 1 < micro < batch or None in known:
            continue
        low, high = (peak or 0 for peak in known)
        if low <= budget < (low + (high - low) * (micro - 1) / (batch - 1)) / _NEARLY:
            return True
    return False


def _key(trial: Trial) -> str:
    training = trial.training
    assert training is not None
    parts: tuple[Any, ...] = (trial.method, trial.rank, trial.precision, training.micro_batch_size)
    return " ".join(map(str, itertools.chain(parts, (training.gradient_checkpointing, training.optimizer))))
