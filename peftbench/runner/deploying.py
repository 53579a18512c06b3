"""The last part of a trial: score the tuned model in the forms in which it is deployed. No failure loses the trial."""

from __future__ import annotations

import gc
import json
import logging
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel

from peftbench.errors import Diverged, Unsupported
from peftbench.evaluation import scoring
from peftbench.evaluation.deployed import forms, reading
from peftbench.measure import machine
from peftbench.methods import deployed_forms, engines, method_of, peft_checkpoint
from peftbench.models.load import Loaded
from peftbench.models.precision import Precision, effective
from peftbench.records import Example, ExampleRow, Phase, Score, Status, failures
from peftbench.records.columns.deployed import DeployedColumns
from peftbench.records.resolve import resolve
from peftbench.runner import serving
from peftbench.runner.state import Run
from peftbench.training.encoded import learned_ends

_ENDED = "the trial's process ended before this form was scored"
"""Stands for a form until it was scored; it stays if the process is killed meanwhile."""


def deploy(run: Run, loaded: Loaded, model: Any, examples: Mapping[str, list[Example]]) -> None:
    """Score the tuned model in each form that the trial asks for, and record it.

    The trained model is read once more and then released, so that a form needs no more memory than it does elsewhere:
    nothing may come after this. Each form's files are deleted when it was scored.
    """
    trial = run.job.trial
    if not trial.deployed or trial.training is None:
        return
    absent = deployed_forms.missing(trial)
    found: dict[str, Any] = {"forms": {form: _ended(Status.KILLED, _ENDED) for form in trial.deployed}}
    found["forms"] |= {form: _ended(Status.UNSUPPORTED, reason) for form, reason in absent.items()}
    if len(absent) == len(trial.deployed):
        _record(run, found)
        return
    _keep(run, found)  # before the phase is announced: whoever stops the trial because of it loses no score
    with run.clock.phase(Phase.DEPLOY):
        try:
            prefix = f".saving-{machine.process_name()}-"
            with torch.no_grad(), tempfile.TemporaryDirectory(dir=run.job.scratch, prefix=prefix) as scratch:
                source = _saved(run, loaded, model, Path(scratch) / "saved")
                targets = reading.targets(loaded.tokenizer, examples, trial.evaluation, trial.device)
                read = targets.read(model, source.precision)
                found["scored"] = {"tasks": _of_trained(run, targets, read)}
                _release(run, model)
                for form in (form for form in trial.deployed if form not in absent):
                    _keep(run, found)
                    found["forms"][form] = _form(run, source, form, (targets, read, examples))
        except Exception as error:
            logging.getLogger("peftbench").exception("the tuned model could not be deployed")
            open_forms = [name for name, form in found["forms"].items() if form["status"] == Status.KILLED]
            found["forms"] |= dict.fromkeys(open_forms, _failed(error))
        _record(run, found)


def _keep(run: Run, found: Mapping[str, Any]) -> None:
    """Hand over the trial's result as it is, in case the process is killed while a form is scored."""
    _record(run, found)
    run.keep()


def _record(run: Run, found: Mapping[str, Any]) -> None:
    run.record(DeployedColumns(deployed_json=json.dumps(found, sort_keys=True)))


def _of_trained(run: Run, targets: reading.Targets, read: reading.Reading) -> dict[str, dict[str, Any]]:
    """Return by task what was scored, the losses of the trained model, and the tokens of each target."""
    found = reading.tasks({score.task: score.value for score in run.scores}, run.examples, read.nats)
    tokens = targets.tokens()
    return {task: {**one, "tokens": tokens[task]} for task, one in found.items()}


def _saved(run: Run, loaded: Loaded, model: Any, folder: Path) -> forms.Source:
    """Save the tuned weights with the method's own function."""
    trial = run.job.trial
    method = method_of(trial.method, trial.options)
    resolve(method.save)(model, folder)
    return forms.Source(
        base_folder=Path(run.job.base_folder),
        saved=folder,
        method=method,
        precision=effective(trial.precision, trial.options),
        double_quantization=trial.options.get("double_quantization", True),
        device=trial.device,
        trust_remote_code=trial.base.trust_remote_code,
        tokenizer=loaded.tokenizer,
    )


def _release(run: Run, model: Any) -> None:
    """Free the memory of the trained model."""
    run.bare = None
    for module in list(model.modules()):
        module._parameters.clear()
        module._buffers.clear()
        vars(module).pop("state", None)  # of bitsandbytes' int8 layers
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


@contextmanager
def _collecting() -> Iterator[None]:
    """Free a form's memory after the context. Collections look at nothing older, which makes them many times faster."""
    gc.freeze()
    try:
        yield
    finally:
        forms.collect()
        gc.unfreeze()


_Known = tuple[reading.Targets, reading.Reading, Mapping[str, list[Example]]]
"""The targets, what the trained model gave for them, and the scored examples."""


def _form(run: Run, source: forms.Source, form: str, known: _Known) -> dict[str, Any]:
    """Return what is stored of a form, scored or not."""
    with _collecting(), tempfile.TemporaryDirectory(dir=source.saved.parent) as scratch:
        try:
            if engines.engine_of(form)[0] is not None:
                return serving.scored(run, source, form, Path(scratch), *known)
            return _scored(run, forms.make(source, form, dict(run.job.trial.options), Path(scratch)), source, known)
        except Unsupported as error:
            return _ended(Status.UNSUPPORTED, str(error))
        except Diverged as error:
            return _ended(Status.DIVERGED, str(error))
        except Exception as error:
            logging.getLogger("peftbench").exception("form %s failed", form)
            return _failed(error)


def _scored(run: Run, made: forms.Form, source: forms.Source, known: _Known) -> dict[str, Any]:
    precision = source.plain_precision
    targets, before, examples = known
    read = targets.read(made.model, precision)
    scores, rows = _evaluate(run, made.model, precision, source.tokenizer, examples)
    return {
        "status": Status.OK,
        "dtype": made.dtype,
        "stored_bytes": made.stored_bytes,
        "loaded_bytes": made.loaded_bytes,
        "load_seconds": made.load_seconds,
        "largest_logit_difference": _largest_difference(before.logits, read.logits),
        "logit_positions": len(read.logits),
        "tasks": reading.tasks({s.task: s.value for s in scores}, rows, read.nats),
    }


def _evaluate(
    run: Run, model: Any, precision: Precision, tokenizer: Any, examples: Mapping[str, list[Example]]
) -> tuple[tuple[Score, ...], tuple[ExampleRow, ...]]:
    """Score a form on the same examples and with the same settings as the trained model."""
    trial = run.job.trial
    if isinstance(model, PeftModel):
        peft_checkpoint.keep_tied(model)  # lm-eval would tie them again
    harness = scoring.Harness(model, tokenizer, trial.evaluation, precision, learned_ends(trial))
    return scoring.evaluate(harness, [task for task in trial.tasks if task.name in trial.evaluate], examples)


def _largest_difference(before: torch.Tensor, after: torch.Tensor) -> float | None:
    """Return the largest difference of a logit; None if it is not finite, or the vocabulary differs."""
    if before.shape != after.shape:
        return None
    found = float((after - before).abs().max())
    return found if found < float("inf") else None


def _failed(error: Exception) -> dict[str, Any]:
    status = Status.OOM if failures.out_of_memory(error) else Status.ERROR
    return _ended(status, failures.words(error))


def _ended(status: Status, message: str) -> dict[str, Any]:
    return {"status": status, "message": failures.without_paths(message)}
