"""The forms in which a tuned model is deployed, and which of them a method does not have. No torch."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from peftbench.errors import unknown
from peftbench.methods import Method, engines, method_of
from peftbench.models import stored
from peftbench.models.precision import Precision, effective
from peftbench.records import HEADS, Status, Trial
from peftbench.records.wording import plural, series

ADAPTER, MERGED, DEQUANTIZED, REQUANTIZED = "adapter", "merged", "merged_dequantized", "requantized"
FORMS: Mapping[str, str] = MappingProxyType(
    {
        ADAPTER: "the saved adapter on the base model at the trial's precision, loaded by peft",
        MERGED: "merged into the base model's own weights in 16 bits (fp32: in 32), saved and loaded by transformers",
        DEQUANTIZED: "quantized base: the same, but merged into the dequantized weights",
        REQUANTIZED: "quantized base: merged as `merged`, then quantized again while it is loaded",
        "as_lora_R": "converted to a plain LoRA of rank R by peft's `save_as_lora`, loaded by peft",
    }
)
"""Name -> meaning; R is a number."""
_ALL = {**FORMS, **{name: meaning for forms in engines.FORMS.values() for name, meaning in forms.items()}}
_AS_LORA = re.compile(r"as_lora_(0|[1-9][0-9]*)")
_NONLINEAR = "a bottleneck has an activation between its two matrices, so it is no change of the base model's weights"
_IN_ATTENTION = "gated prompts are part of the attention and no change of the base model's weights"
_OWN_FORMAT = "peft has no such method: only peftbench loads the saved adapter"
_MERGES = (MERGED, DEQUANTIZED, REQUANTIZED)


def lora_rank(form: str) -> int | None:
    """Return R of ``as_lora_R``; None for another form."""
    found = _AS_LORA.fullmatch(engines.engine_of(form)[1])
    return int(found.group(1)) if found else None


def problem(form: str) -> str | None:
    """Return what is wrong with the name of a form; None if nothing is."""
    rank = lora_rank(form)
    if rank == 0:
        return f"given {form!r}; allowed: as_lora_R with a rank R of at least 1, such as as_lora_8"
    if form in _ALL and not form.endswith("_R"):
        return None
    return None if rank else unknown("form", form, [name.replace("_R", "_8") for name in _ALL])


def why_not(method: Method, options: Mapping[str, Any], precision: Precision, form: str) -> str | None:
    """Return why a method does not have a form, as far as that is known before anything runs; None if it may have it.

    Args:
        method: the method's record, or that of its variant.
        options: the trial's options.
        precision: the trial's effective precision.
        form: a form.
    """
    engine, form = engines.engine_of(form)
    if engine is not None and form == ADAPTER:
        return engines.why_not_adapter(method, options, precision)
    if engine is not None and lora_rank(form) and not method.trains_base:
        reason = engines.why_not_quantized(precision)
        if reason is not None:
            return reason
    if precision.name == stored.NAME and form != ADAPTER:
        return "the base is stored quantized, and its unquantized weights, which the form needs, are not there"
    if form in (DEQUANTIZED, REQUANTIZED) and precision.quantization is None:
        return f"the base model is not quantized in {precision.name}"
    if method.trains_base:
        return None if form in _MERGES else "the base model's own weights are trained: there is no adapter"
    if form == ADAPTER:
        return _why_not_peft(method, options)
    if method.virtual_tokens or method.name == "prompt_tuning":
        return "virtual tokens are no change of the base model's weights"
    return {"adapter": _NONLINEAR, "llama_adapter": _IN_ATTENTION}.get(method.name)


def _why_not_peft(method: Method, options: Mapping[str, Any]) -> str | None:
    if method.name == "adapter":
        return _OWN_FORMAT
    if method.name == "llama_adapter" and options.get("gate") == "per_head":
        return "peft has no gate per head: only peftbench loads the saved adapter"
    return None


def remark(options: Mapping[str, Any], form: str) -> str | None:
    """Return what a form leaves out by the libraries' own design, as a clause; None if nothing is known."""
    if not lora_rank(form):
        return None
    if options.get("dora") or options.get("use_dora"):
        return "peft converts B A alone, without DoRA's magnitudes"
    if options.get("peft_type") == "MISS" and options.get("init_weights") != "bat":
        return "peft converts MiSS exactly, at its own rank, whatever rank is asked for"
    return None


def missing(trial: Trial) -> dict[str, str]:
    """Return the forms of a trial that its method does not have, each with the reason."""
    if trial.training is None:  # the untuned base model is not deployed
        return {}
    if any(task.kind in HEADS for task in trial.tasks):
        return dict.fromkeys(trial.deployed, "only models that predict tokens are deployed here")
    if trial.devices:
        return dict.fromkeys(trial.deployed, "a model on several devices is not deployed here; see the cell on one")
    method, precision = method_of(trial.method, trial.options), effective(trial.precision, trial.options)
    reasons = {form: why_not(method, trial.options, precision, form) for form in trial.deployed}
    elsewhere = engines.why_not_trial(trial)
    if elsewhere is not None:
        reasons |= {form: elsewhere for form in trial.deployed if engines.engine_of(form)[0]}
    return {form: reason for form, reason in reasons.items() if reason}


def unfinished(text: str, status: Status, message: str) -> str:
    """Return ``deployed_json`` with a status and a message for the forms of which nothing was stored yet."""
    found = json.loads(text)
    ended = {"status": status, "message": message}
    forms = {name: ended if form["status"] == Status.KILLED else form for name, form in found["forms"].items()}
    return json.dumps({**found, "forms": forms}, sort_keys=True)


def failed(text: str | None) -> bool:
    """Return whether a form in ``deployed_json`` failed, as opposed to one that the method does not have."""
    forms = json.loads(text)["forms"].values() if text else ()
    return any(form["status"] not in (Status.OK, Status.UNSUPPORTED) for form in forms)


def plan_notes(trials: Iterable[Trial]) -> list[str]:
    """Return a note on what the forms cost, and one on those that cells do not have for each reason."""
    can_run = [trial for trial in trials if trial.unsupported is None]
    cells = {trial.cell: trial for trial in can_run}
    absent = [(name, form, why) for name, trial in cells.items() for form, why in missing(trial).items()]
    each = [len(trial.deployed) - len(missing(trial)) for trial in can_run if trial.training]
    said = []
    if any(each):
        said = [
            f"{plural(sum(each), 'form')} of {plural(sum(map(bool, each)), 'trial')} (up to {max(each)} of one) are "
            "saved, loaded and scored after training, each on all examples"
        ]
    of_engines = [form for trial in can_run for form in _of_engines(trial)]
    if of_engines:
        named = series(sorted({str(engines.engine_of(form)[0]) for form in of_engines}))
        said += [f"{plural(len(of_engines), 'form')} of these by {named}, each in a process that it starts for it"]
    return [f"score after deployment: {sentence}" for sentence in (*said, *sentences(absent))]


def _of_engines(trial: Trial) -> list[str]:
    """Return the forms of a trial that another engine is to score."""
    absent = missing(trial)
    return [f for f in trial.deployed if trial.training and f not in absent and engines.engine_of(f)[0]]


def engines_of(trials: Iterable[Trial]) -> list[str]:
    """Return the engines other than transformers that are to score tuned models of trials that can run."""
    can_run = [trial for trial in trials if trial.unsupported is None]
    return sorted({str(engines.engine_of(form)[0]) for trial in can_run for form in _of_engines(trial)})


def sentences(absent: Iterable[tuple[str, str, str]], what: str = "not available") -> list[str]:
    """Return "not available as merged: adapter r=16 bf16 (why)" for each reason and group of cells.

    Args:
        absent: cell, form and the reason why it is missing.
        what: how it is missing.
    """
    cells: dict[tuple[str, str], list[str]] = {}
    for cell, form, reason in absent:
        cells.setdefault((reason, form), []).append(cell)
    forms: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for (reason, form), names in cells.items():
        forms.setdefault((reason, tuple(names)), []).append(form)
    return [f"{what} as {' or '.join(of)}: {', '.join(names)} ({reason})" for (reason, names), of in forms.items()]
