"""Make a form of a tuned model from its saved weights, as users of transformers and peft do.

Each form begins with the saved weights and the base model's files and ends with a model that only transformers and peft
have loaded: none of peftbench's loading, hooks or autocast is in it. What a form computes is therefore what another
program of these libraries computes. The trained model in memory is not used. One thing differs: 4-bit layers keep one
kernel on the CPU (``docs/design/one_4bit_kernel.md``), so that results do not depend on the CPU.
"""

from __future__ import annotations

import gc
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, save_as_lora
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.tuners.tuners_utils import BaseTuner
from safetensors import safe_open
from torch import nn

from peftbench.errors import Unsupported
from peftbench.evaluation import structure
from peftbench.methods import Method, deployed_forms, engines
from peftbench.models import quantization
from peftbench.models.load import checksum, use_one_kernel, weights_bytes
from peftbench.models.precision import Precision
from peftbench.records.resolve import resolve

_REFUSALS = (ValueError, TypeError, NotImplementedError)
"""What peft raises if a tuner cannot be merged or converted."""
_WITH_TASKS = ("POLY", "MULTITASK_PROMPT_TUNING")
"""Tuners whose forward pass takes the task of each example."""


@dataclass(frozen=True)
class Source:
    """A tuned model's saved weights, and what they were trained on."""

    base_folder: Path
    """The base model's files."""
    saved: Path
    """Folder that the method's own ``save`` has written."""
    method: Method
    precision: Precision
    """The trial's effective precision."""
    double_quantization: bool
    device: str
    trust_remote_code: bool
    tokenizer: Any

    @property
    def plain_precision(self) -> Precision:
        """The precision without autocast, which no loading program turns on."""
        return replace(self.precision, autocast=None, weights=self.merged_dtype)

    @property
    def merged_dtype(self) -> str:
        """The dtype of merged weights: 16 bits, except at fp32 and tf32, where it is that of the trial's weights."""
        precision = self.precision
        if precision.quantization is None or precision.weights != "float32":
            return precision.weights
        return precision.autocast or "bfloat16"


@dataclass(frozen=True)
class Form:
    """A loaded form."""

    model: Any
    dtype: str
    """Storage dtype of the weights that are not quantized."""
    stored_bytes: int
    """Size of the safetensors files that belong to it: without the base model's if it needs them too."""
    loaded_bytes: int
    """Size of weights and quantization state in memory."""
    load_seconds: float
    """From files to a model in memory, the base model included."""


def make(source: Source, form: str, options: dict[str, Any], scratch: Path) -> Form:
    """Return a form, loaded for evaluation.

    Args:
        source: the saved weights.
        form: a name of ``deployed_forms.FORMS``.
        options: the trial's options.
        scratch: an empty folder for its files, which may be deleted when the form is no longer used.

    Raises:
        Unsupported: if the method does not have this form, or peft refuses it, with the reason.
    """
    reason = deployed_forms.why_not(source.method, options, source.precision, form)
    if reason is not None:
        raise Unsupported(reason)
    rank = deployed_forms.lora_rank(form)
    if rank is not None:
        folder = _converted(source, rank, scratch / "lora")
        collect()
        return _loaded(source, folder, lambda: _adapted(source, folder))
    if form == deployed_forms.ADAPTER:
        return _loaded(source, source.saved, lambda: _adapted(source, source.saved))
    folder = _merged(source, scratch / "merged", form == deployed_forms.DEQUANTIZED)
    collect()  # else the merged model is still in memory while it is loaded
    quantized = form == deployed_forms.REQUANTIZED
    return _loaded(source, folder, lambda: _plain(source, folder, "auto", quantized))


@dataclass(frozen=True)
class Served:
    """The files of a form as a program that serves models loads it."""

    folder: Path
    """The folder of the model, or of the base model."""
    adapter: Path | None
    """The folder of the LoRA adapter; None if the model is whole."""
    rank: int | None
    """The largest rank of the adapter."""
    modules: tuple[str, ...]
    """The last parts of the names of the modules that it adapts; empty if the model is whole."""
    stored_bytes: int


def served(source: Source, form: str, options: dict[str, Any], scratch: Path) -> Served:
    """Return the files of a form for another engine, made as for transformers and peft.

    Args:
        source: the saved weights.
        form: a form of an engine (``engines.engine_of``).
        options: the trial's options.
        scratch: an empty folder for its files.

    Raises:
        Unsupported: if the engine does not serve it, or the method does not have it, with the reason.
    """
    reason = deployed_forms.why_not(source.method, options, source.precision, form)
    if reason is not None:
        raise Unsupported(reason)
    plain = engines.engine_of(form)[1]
    rank = deployed_forms.lora_rank(plain)
    if plain != deployed_forms.ADAPTER and rank is None:
        folder = _merged(source, scratch / "merged", plain == deployed_forms.DEQUANTIZED)
        collect()
        return Served(folder, None, None, (), _stored_bytes(folder))
    folder = source.saved if rank is None else _converted(source, rank, scratch / "lora")
    collect()
    _check_format(folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    modules = _adapted_modules(folder)
    reason = engines.why_not_lora(config) or engines.why_not_modules(modules)
    if reason is not None:
        raise Unsupported(reason)
    return Served(source.base_folder, folder, int(config["r"]), modules, _stored_bytes(folder))


def _adapted_modules(folder: Path) -> tuple[str, ...]:
    """Return the last parts of the names of the modules that a saved LoRA adapts."""
    with safe_open(folder / "adapter_model.safetensors", framework="pt") as weights:
        names = [name.partition(".lora_")[0] for name in weights.keys()]  # noqa: SIM118  it is no mapping
    return tuple(sorted({name.rpartition(".")[2] for name in names}))


def _stored_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def collect() -> None:
    """Free the memory of models that are no longer used: they refer to themselves, so that only a collection does."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _plain(source: Source, folder: Path, dtype: Any, quantized: bool) -> Any:
    """Load a model folder by transformers alone, in the trial's quantization if it is to be quantized."""
    from transformers import AutoModelForCausalLM

    settings: dict[str, Any] = {"dtype": dtype, "use_safetensors": True, "trust_remote_code": source.trust_remote_code}
    if not quantized:
        return AutoModelForCausalLM.from_pretrained(folder, **settings).to(source.device)
    settings |= quantization.settings(source.precision, source.double_quantization)
    model = AutoModelForCausalLM.from_pretrained(folder, device_map={"": source.device}, **settings)
    use_one_kernel(model)
    return model


def _base(source: Source) -> Any:
    """Load the base model as the trial's precision stores it."""
    dtype = getattr(torch, source.precision.weights)
    return _plain(source, source.base_folder, dtype, source.precision.quantization is not None)


def _adapted(source: Source, folder: Path) -> Any:
    """Load a saved adapter on the base model by peft alone."""
    _check_format(folder)
    return PeftModel.from_pretrained(_base(source), str(folder), torch_device=source.device)


def _check_format(folder: Path) -> None:
    """Check that an adapter can be loaded by peft alone.

    Raises:
        Unsupported: if it cannot.
    """
    path = folder / "adapter_config.json"
    kind = json.loads(path.read_text()).get("peft_type") if path.is_file() else None
    if kind not in PEFT_TYPE_TO_CONFIG_MAPPING:
        raise Unsupported("the adapter is saved in a format of its own, which peft alone does not load")
    if kind in _WITH_TASKS:
        raise Unsupported(f"peft's {kind} takes the task of each example with every call, which other programs do not")


def _loaded(source: Source, folder: Path, load: Callable[[], Any]) -> Form:
    start = time.perf_counter()
    model = load()
    if source.device == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    model.eval().requires_grad_(False)
    return Form(
        model=model,
        dtype=str(model.dtype).removeprefix("torch."),
        stored_bytes=_stored_bytes(folder),
        loaded_bytes=weights_bytes(model),
        load_seconds=seconds,
    )


def _merged(source: Source, folder: Path, dequantized: bool) -> Path:
    """Merge the tuned weights into the base model's and save it with its tokenizer; return the folder.

    Raises:
        Unsupported: if there is nothing that can be merged, or merging would change another weight too.
        RuntimeError: if peft has merged nothing without saying so.
    """
    dtype = getattr(torch, source.merged_dtype)
    if dequantized:
        model = quantization.dequantize(_base(source), dtype)
    else:
        model = _plain(source, source.base_folder, dtype, quantized=False)
    if source.method.trains_base:
        model = resolve(source.method.load)(model, source.saved)
    else:
        model = _with_adapter_merged(source, model)
    model.save_pretrained(folder)
    source.tokenizer.save_pretrained(folder)
    return folder


def _with_adapter_merged(source: Source, model: Any) -> Any:
    _check_format(source.saved)
    before = _checksums(model)
    tuned = PeftModel.from_pretrained(model, str(source.saved), torch_device=source.device)
    if not isinstance(tuned.base_model, BaseTuner):
        raise Unsupported("the method's update cannot be expressed as a change of the weights")
    if structure.adapts_tied(tuned):
        raise Unsupported("the adapted weight is tied to another module's, which merging would change too")
    try:
        merged = tuned.merge_and_unload(safe_merge=True)
    except (*_REFUSALS, RuntimeError) as error:
        if not isinstance(error, _REFUSALS) and "Impossible to merge" not in str(error):  # lora_bias without a bias
            raise
        raise Unsupported(
            f"peft does not merge {source.method.variant or source.method.name}: {_line(error)}"
        ) from error
    if _checksums(merged) == before:
        raise RuntimeError("peft merged nothing: the base model's weights are unchanged")
    return merged


def _converted(source: Source, rank: int, folder: Path) -> Path:
    """Save the tuned weights as a plain LoRA; return the folder.

    peft converts no layers of bitsandbytes, so the adapter is put on the base model's own weights. What it adds to
    them does not depend on their values, for the tuners that peft converts.

    Raises:
        Unsupported: if peft cannot convert them.
    """
    _check_format(source.saved)
    model = _plain(source, source.base_folder, getattr(torch, source.merged_dtype), quantized=False)
    tuned = PeftModel.from_pretrained(model, str(source.saved), torch_device=source.device)
    try:
        save_as_lora(folder, tuned, rank=rank)
    except _REFUSALS as error:
        name = source.method.variant or source.method.name
        raise Unsupported(f"peft does not convert {name} to a plain LoRA: {_line(error)}") from error
    return folder


def _checksums(model: nn.Module) -> dict[str, int]:
    return {name: checksum(parameter) for name, parameter in model.named_parameters()}


def _line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
