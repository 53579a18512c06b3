"""A base model that is on no device whole: read on the host of one rank, and divided before anything calls it.

Where a strategy is ``early`` (FSDP2), rank 0 alone reads the base model; the others build it, and attach the method to
it, on ``meta``. It is divided twice: for what is measured of the base model itself, and with the method. A rank that
cannot do so without the weights, as a rank of a quantized base model, reads them on its host.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from peftbench.errors import Unsupported
from peftbench.methods import method_of, strategies
from peftbench.models import load, text_part
from peftbench.models import origin as origins
from peftbench.models.precision import Precision, effective
from peftbench.models.tokenizer import load_tokenizer
from peftbench.planner import fake
from peftbench.records.resolve import resolve
from peftbench.runner.checks import liveness
from peftbench.runner.state import Run
from peftbench.training.parallel import shards


def read(run: Run, config: Any, whole: Callable[[str, str | None], load.Loaded]) -> load.Loaded:
    """Return the base model as this rank has it, and put what it calls in ``run.base``.

    Args:
        run: the trial.
        config: the base model's transformers config.
        whole: reads the base model, given a device, and where its method then draws if that is another one.

    Raises:
        Unsupported: if it cannot be divided.
    """
    trial = run.job.trial
    if not run.parallel.early:
        loaded = whole(trial.device, None)
        run.base = loaded.model
        return loaded
    here = partial(whole, "cpu", trial.device if trial.device != "cpu" else None)
    told: Any = None
    if run.parallel.rank == 0 or not _sends(run):
        loaded = here()
        told = _facts(loaded)
    told = run.parallel.first(told if run.parallel.rank == 0 else None)
    if run.parallel.rank and _sends(run):
        hollow = _hollow(run, config, told)
        loaded, run.read_here = (hollow, here) if hollow else (here(), None)
    _compare(told["structure"], loaded.model)
    run.base = shards.twin(loaded.model)
    run.parallel.divide(run.base, effective(trial.precision, trial.options), _sends(run))
    return loaded


def _sends(run: Run) -> bool:
    """Return whether rank 0 sends the weights to the others."""
    return not strategies.why_everywhere(run.job.trial.precision)


def _facts(loaded: load.Loaded) -> dict[str, Any]:
    """Return what the other ranks are told of the base model that rank 0 has read."""
    sizes = {name: getattr(loaded, name) for name in ("parameters", "weights_bytes", "dtypes")}
    configs = {name: getattr(loaded.model, name, None) for name in ("config", "generation_config")}
    unreached = loaded.model.peftbench_unreached
    return {"sizes": sizes, "configs": configs, "unreached": unreached, "structure": shards.structure(loaded.model)}


def _hollow(run: Run, config: Any, told: Mapping[str, Any]) -> load.Loaded | None:
    """Return the base model on ``meta``, as ``load.load`` would have it with its weights; None if it is not that."""
    trial = run.job.trial
    folder, trust = Path(run.job.base_folder), trial.base.trust_remote_code
    precision = effective(trial.precision, trial.options)
    load.set_products(precision)
    tokenizer = load_tokenizer(folder, trust, trial.head is None)
    try:
        model = fake.base(trial, config, precision)
        _compare(told["structure"], model)
    except Exception:  # of many kinds; that of a base model that cannot run is rank 0's
        _log("the base model cannot be built without its weights")
        return None
    model.eval()
    for name, value in told["configs"].items():
        setattr(model, name, value)
    origins.guard_embeddings(model, tokenizer)
    text_part.mark_unreached(model, told["unreached"])
    model.peftbench_origin = origins.Origin(folder, tokenizer, trust)
    return load.Loaded(model, tokenizer, **told["sizes"])


def _log(what: str) -> None:
    logging.getLogger("peftbench").warning("%s; this rank reads them", what, exc_info=True)


def _compare(told: Mapping[str, Any], model: nn.Module) -> None:
    """Check that a model is that of rank 0, whatever its values.

    Raises:
        Unsupported: if it is another one, naming the first difference.
    """
    own = shards.structure(model)
    if own != told:
        name = next(n for n in (*told, *own) if own.get(n) != told.get(n))
        raise Unsupported(
            f"fsdp2: the ranks have different models ({name.strip() or type(model).__name__}: {own.get(name)}, and on "
            f"rank 0 {told.get(name)}); use ddp"
        )


def attach(run: Run, loaded: load.Loaded) -> Any:
    """Attach the trial's method to a base model as this rank has it; return the tuned model."""
    trial = run.job.trial
    add = resolve(method_of(trial.method, trial.options).attach)
    run.base = None
    if not run.parallel.early:
        return add(loaded.model, trial.rank, trial.options)
    gc.collect()  # a divided model refers to itself
    tuned: Any = add(loaded.model, trial.rank, trial.options) if run.read_here is None else None
    told = run.parallel.first(shards.structure(tuned) if run.parallel.rank == 0 else None)
    if run.read_here is not None:
        tuned = _attached_hollow(run, loaded, told)
        if tuned is None:
            origin, random = loaded.model.peftbench_origin, torch.get_rng_state()
            loaded.model = run.read_here().model
            loaded.model.peftbench_origin = replace(loaded.model.peftbench_origin, step_examples=origin.step_examples)
            torch.set_rng_state(random)
            tuned = add(loaded.model, trial.rank, trial.options)
    _compare(told, tuned)
    return tuned


def _attached_hollow(run: Run, loaded: load.Loaded, told: Mapping[str, Any]) -> Any:
    """Return the tuned model on ``meta``; None if the method cannot be attached there as on rank 0."""
    trial = run.job.trial
    add = resolve(method_of(trial.method, trial.options).attach)
    with torch.device("meta"), torch.random.fork_rng(devices=[]):
        try:
            tuned = add(loaded.model, trial.rank, fake.unread(trial.options))
            _compare(told, tuned)
        except Exception:  # of many kinds: whatever a method does not do without weights
            _log("the method cannot be attached without the weights")
            return None
    return tuned


def divide(run: Run, model: Any, precision: Precision) -> Sequence[nn.Parameter]:
    """Divide a tuned model where the strategy is early; return what trains, as this rank holds it.

    Raises:
        Unsupported: if it cannot be divided.
        RuntimeError: if the shards are not those of the weights that were read.
    """
    if run.parallel.early:
        sends = _sends(run)
        before = None if sends and run.parallel.rank else _checksums(model)
        run.parallel.divide(model, precision, sends)
        after = _checksums(model)  # gathers whole tensors, so every rank calls it
        if before is not None and before != after:
            raise RuntimeError("the weights that were divided are not those that this rank has read")
    return [p for p in model.parameters() if p.requires_grad]


def _checksums(model: nn.Module) -> dict[str, int]:
    return liveness.checksums(model, True) | liveness.checksums(model, False)
