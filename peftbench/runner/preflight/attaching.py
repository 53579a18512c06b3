"""Attach methods to base models without weights, to say before a run which cells would end as unsupported.

It builds the model of the base's config on ``meta`` as the planner does, so torch and transformers are imported, and
only if a suite has a base model that is not built in. What a forward pass with real weights shows is not seen here.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from peftbench.errors import Unsupported, UserError
from peftbench.methods import base_facts, context_length, method_of
from peftbench.models import find, quiet_imports
from peftbench.models.precision import effective
from peftbench.records import Trial
from peftbench.runner.preflight import bases


def unsupported(trials: Sequence[Trial]) -> dict[str, str]:
    """Return the cells whose method does not exist for their base model, with the reason of a run.

    Args:
        trials: the trials of a grid. Base models that are built in or not on this machine are left out.
    """
    found: dict[str, str] = {}
    for base in bases.to_check(trials):
        with suppress(UserError):  # the folder is refused by ``bases.check``
            folder = find.cached(base)
            if folder is not None:
                found |= _of_base([t for t in trials if t.base == base and t.unsupported is None], folder)
    return found


def _of_base(trials: Sequence[Trial], folder: Path) -> dict[str, str]:
    quiet_imports.quantizers()
    from peftbench.planner.predict import load_config

    config = load_config(trials[0].base, folder)
    found: dict[str, str] = {}
    tried: dict[tuple[Any, ...], str | None] = {}
    for trial in {trial.cell: trial for trial in trials}.values():
        try:
            context_length.check(trial, config)
            base_facts.check(trial, config)
        except Unsupported as error:
            found[trial.cell] = str(error)
            continue
        method, precision = method_of(trial.method, trial.options), effective(trial.precision, trial.options)
        divided = trial.devices.count if trial.devices is not None and trial.devices.strategy == "tp" else None
        compute = trial.training.compute if trial.training is not None else "auto"
        plain = method.trains_base and not any(trial.options.values()) and not divided and compute == "auto"
        if not method.trains or plain:
            continue  # nothing is attached, and nothing selected
        # neither the size of a method of peftbench nor the dtype of plain weights decides whether it can be attached
        rank = trial.rank if method.variant else None
        what = (method.name, rank, precision.quantization, divided, compute, repr(sorted(trial.options.items())))
        if what not in tried:
            tried[what] = _why_not(trial, config, divided)
        reason = tried[what]
        if reason is not None:
            found[trial.cell] = reason
    return found


def _why_not(trial: Trial, config: Any, divided: int | None) -> str | None:
    """Return why a trial's method cannot be attached, or its model not be divided among a number of processes.

    None if it can, or if only a run can tell.

    Which weights a quantizer leaves plain is left to the run: the stand-in differs for some families (gemma3n).
    """
    from peftbench.models import dry_load
    from peftbench.planner import fake
    from peftbench.training import float8
    from peftbench.training.parallel import tensor

    with warnings.catch_warnings(), dry_load.quiet():
        warnings.simplefilter("ignore")
        try:
            made = fake.base(trial, copy.deepcopy(config), effective(trial.precision, trial.options))
        except Exception:  # a model's code may do anything without weights
            return None
        try:
            tuned = fake.attach(made, trial)
            if divided is not None:
                tensor.check(tuned, divided)
            if trial.training is not None and trial.training.compute == float8.FP8:
                float8.products(tuned, trial.device)
        except Unsupported as error:
            # torch raises NotImplementedError for what only tensors without values cannot do
            unknown = isinstance(error.__cause__, NotImplementedError) or fake.lacks_values(error)
            return None if unknown else str(error)
        except Exception:
            return None
    return None
