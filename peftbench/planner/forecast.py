"""Predict the memory of a suite's cells and whether it fits a budget, for ``plan --memory``."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from peftbench.errors import Unsupported, UserError
from peftbench.measure import device
from peftbench.methods import base_facts, context_length
from peftbench.models import causality, quiet_imports
from peftbench.planner import cuda_reserve, fit, levers
from peftbench.planner.predict import load_config
from peftbench.planner.ranks import highest
from peftbench.planner.records import Forecast, Lever, Question
from peftbench.records import Trial

_WORKERS = 4


def forecasts(trials: Sequence[Trial], folder: Callable[[Trial], Path], asked: Question) -> Iterator[Forecast]:
    """Yield a forecast for each cell, in the suite's order. It is the same for all seeds of a cell.

    Args:
        trials: the trials of a suite.
        folder: returns the folder with the config of a trial's base model.
        asked: what to predict.

    Raises:
        UserError: if the config of a base model cannot be read, or an option of a cell is wrong for its base model.
    """
    cells: dict[str, Trial] = {}
    for trial in trials:
        cells.setdefault(trial.cell, trial)
    bases = {trial.base: trial for trial in cells.values()}
    configs = {base: load_config(base, folder(trial)) for base, trial in bases.items()}
    each = [configs[trial.base] for trial in cells.values()]
    workers = min(len(os.sched_getaffinity(0)), _WORKERS, len(cells))
    # forked workers share the imported libraries; nothing here runs a kernel or touches CUDA
    with ProcessPoolExecutor(workers, get_context(_start_method()), _silence_warnings) as pool:
        yield from pool.map(partial(_forecast, asked), cells.values(), each)


def _start_method() -> str:
    """Return how workers start: forked, so that libraries are imported once, unless importing them touches CUDA."""
    return "spawn" if device.may_touch_cuda() else "fork"


def _silence_warnings() -> None:
    """Silence the libraries' warnings, which do not apply to a step on fake tensors."""
    warnings.simplefilter("ignore")
    quiet_imports.quantizers()


def _forecast(asked: Question, trial: Trial, config: Any) -> Forecast:
    if trial.unsupported or trial.training is None:
        return Forecast(trial, problem=trial.unsupported or "nothing trains")
    try:
        causality.check_config(config, trial.head is not None)
        context_length.check(trial, config)
        base_facts.check(trial, config)
        found = highest(trial, config)
        if asked.budget is None:
            return Forecast(trial, found)
        available = asked.budget - (cuda_reserve.reserve(trial) if asked.reserve is None else asked.reserve)
        answer = Forecast(trial, found, fits=found.needed_bytes <= available)
        if not asked.axis:
            if answer.fits:
                return answer
            return replace(answer, levers=_levers(trial, config, available, found.needed_bytes))
        limit = context_length.remaining(trial, config) if asked.axis == "sequence_length" else None
        most = _most(trial, config, asked.axis, available, limit)
        return replace(answer, most=most, capped=most is not None and most == limit)
    except UserError as error:
        raise UserError(f"{trial.cell}: {error}") from error
    except Unsupported as error:
        return Forecast(trial, problem=str(error))
    except Exception as error:  # a model's code may do anything with tensors that have no values
        reason = (str(error) or "no message").splitlines()[0]
        return Forecast(trial, problem=f"the step cannot be traced: {type(error).__name__}: {reason}")


def _most(trial: Trial, config: Any, axis: str, available: int, limit: int | None) -> int | None:
    def peak(size: int) -> int:
        return highest(fit.with_size(trial, axis, size), config).needed_bytes

    return fit.largest_size(peak, available, 1 if axis == "batch_size" else 2, limit or fit.LARGEST)


def _levers(trial: Trial, config: Any, available: int, own: int) -> tuple[Lever, ...]:
    """Return what would make a cell fit; a setting that cannot be traced has no figure."""

    def peak(changed: Trial) -> int | None:
        try:
            return highest(changed, config).needed_bytes
        except Exception:  # as in ``_forecast``: the cell's own prediction stands
            return None

    return levers.nearest(trial, peak, available, own)
