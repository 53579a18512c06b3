"""A suite's cells with what each will take, and whether that fits: the predictions behind ``plan --memory``."""

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
from peftbench.methods import context_length
from peftbench.models import causality
from peftbench.planner import cuda_reserve, fit
from peftbench.planner.predict import load_config, predict
from peftbench.planner.records import Forecast, Question
from peftbench.records import Trial

_WORKERS = 4


def forecasts(trials: Sequence[Trial], folder: Callable[[Trial], Path], asked: Question) -> Iterator[Forecast]:
    """Yield an answer for each cell, in the suite's order; its seeds are alike.

    Args:
        trials: of a suite.
        folder: with the config of a trial's base.
        asked: the question.

    Raises:
        UserError: if a base's config cannot be read, or an option of a cell is wrong for its base.
    """
    cells: dict[str, Trial] = {}
    for trial in trials:
        cells.setdefault(trial.cell, trial)
    bases = {trial.base: trial for trial in cells.values()}
    configs = {base: load_config(base, folder(trial)) for base, trial in bases.items()}
    each = [configs[trial.base] for trial in cells.values()]
    workers = min(len(os.sched_getaffinity(0)), _WORKERS, len(cells))
    # forked, so that torch and the others are imported once; nothing here runs a kernel or touches CUDA
    with ProcessPoolExecutor(workers, get_context(_start_method()), _be_quiet) as pool:
        yield from pool.map(partial(_forecast, asked), cells.values(), each)


def _start_method() -> str:
    """Return how the workers start: forked, so that libraries are imported once, unless importing them touched CUDA."""
    return "spawn" if device.may_touch_cuda() else "fork"


def _be_quiet() -> None:
    """Let libraries not warn: nothing of what they warn about happens."""
    warnings.simplefilter("ignore")


def _forecast(asked: Question, trial: Trial, config: Any) -> Forecast:
    if trial.unsupported or trial.training is None:
        return Forecast(trial, problem=trial.unsupported or "nothing trains")
    try:
        causality.check_config(config)
        context_length.check(trial, config)
        found = predict(trial, config)
        if asked.budget is None:
            return Forecast(trial, found)
        room = asked.budget - (cuda_reserve.reserve(trial) if asked.reserve is None else asked.reserve)
        answer = Forecast(trial, found, fits=found.peak_bytes <= room)
        if not asked.axis:
            return answer
        limit = context_length.remaining(trial, config) if asked.axis == "sequence_length" else None
        most = _most(trial, config, asked.axis, room, limit)
        return replace(answer, most=most, capped=most is not None and most == limit)
    except UserError as error:
        raise UserError(f"{trial.cell}: {error}") from error
    except Unsupported as error:
        return Forecast(trial, problem=str(error))
    except Exception as error:  # whatever a model's code does with tensors that have no values
        told = (str(error) or "no text").splitlines()[0]
        return Forecast(trial, problem=f"the step cannot be traced: {type(error).__name__}: {told}")


def _most(trial: Trial, config: Any, axis: str, room: int, limit: int | None) -> int | None:
    def peak(size: int) -> int:
        return predict(fit.with_size(trial, axis, size), config).peak_bytes

    return fit.most(peak, room, 1 if axis == "batch_size" else 2, limit or fit.MOST)
