"""Engines other than transformers that score tuned models: their forms, and what they do not serve. No torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from peftbench.methods import Method
from peftbench.models.precision import Precision
from peftbench.records import Trial

FORMS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "vllm": MappingProxyType(
            {
                "vllm_adapter": "the saved LoRA adapter on the base model, both loaded by vllm",
                "vllm_merged": "merged as `merged`, loaded by vllm",
                "vllm_merged_dequantized": "quantized base: merged as `merged_dequantized`, loaded by vllm",
                "vllm_as_lora_R": "converted as `as_lora_R`, loaded by vllm as an adapter",
            }
        )
    }
)
"""Engine -> its forms with their meaning; R is a number."""
DEFAULT: Mapping[str, tuple[str, ...]] = MappingProxyType({"vllm": ("vllm_adapter", "vllm_merged")})
"""Engine -> the forms that ``evaluate.engine`` stands for."""
_MERGED = "give vllm_merged"
_NOTHING_THERE = "only peftbench's own scores are of this method"
_AS_PLAIN = frozenset(
    {
        *("alpha_pattern", "rank_pattern"),  # refused below in words of their own
        *("auto_mapping", "base_model_name_or_path", "ensure_weight_tying", "exclude_modules", "fan_in_fan_out"),
        *("inference_mode", "init_lora_weights", "layers_pattern", "layers_to_transform", "lora_alpha", "lora_dropout"),
        *("loftq_config", "megatron_core", "peft_type", "peft_version", "qalora_group_size", "r", "revision"),
        *("target_modules", "task_type", "use_rslora"),
    }
)
"""Entries of a LoRA adapter's configuration beside which it is a plain LoRA, or that a plain LoRA has."""
_PLAIN_STARTS = (True, False, "gaussian", "eva", "orthogonal")
"""Initializations that leave the base model's weights as they are."""
_GREEDY = "another engine is asked for greedy decoding alone"
_PATTERNS = "not every version of vllm reads the ranks and alphas of single modules"


def engine_of(form: str) -> tuple[str | None, str]:
    """Return the engine of a form, None for transformers, and the form without it: vllm, merged for vllm_merged."""
    engine, _, plain = form.partition("_")
    return (engine, plain) if engine in FORMS else (None, form)


def why_not_adapter(method: Method, options: Mapping[str, Any], precision: Precision) -> str | None:
    """Return why vllm does not serve a method's adapter as it was saved, with the way out; None if it may."""
    if method.trains_base:
        return f"the base model's own weights are trained: there is no adapter; {_MERGED}"
    if method.virtual_tokens or method.name == "prompt_tuning":
        return f"vllm loads adapters of LoRA alone, and no virtual tokens; {_NOTHING_THERE}"
    if method.name in ("adapter", "llama_adapter"):
        return f"vllm loads adapters of LoRA alone, and no {method.title}; {_NOTHING_THERE}"
    if method.name not in ("lora", "qlora") and options.get("peft_type") != "LORA":
        return f"vllm loads adapters of LoRA alone; {_MERGED} or vllm_as_lora_8"
    found = why_not_quantized(precision)
    if found is not None:
        return found
    own = {"dora": "use_dora", "initialization": "init_lora_weights"}
    experts = {"target_parameters": [options["experts"]]} if options.get("experts", "auto") != "auto" else {}
    given = {own.get(name, name): value for name, value in options.items() if name in (*own, *_OF_PEFT)}
    if given.get("init_lora_weights") in ("kaiming", "lora_ga", "pissa", "olora", "corda", "loftq"):
        given["init_lora_weights"] = True  # what is saved is the change of the base model's own weights
    return why_not_lora({**given, **experts})


_OF_PEFT = (
    *("use_dora", "init_lora_weights", "rank_pattern", "alpha_pattern", "bias", "lora_bias", "modules_to_save"),
    *("target_parameters", "layer_replication", "trainable_token_indices", "alora_invocation_tokens", "use_qalora"),
    "use_bdlora",
)
"""Fields of peft's ``LoraConfig`` that a trial's options may have and vllm does not read as peft does."""


def why_not_quantized(precision: Precision) -> str | None:
    """Return why an adapter of a quantized base model is not scored by vllm; None if the base is not quantized."""
    if precision.quantization is None and precision.name != "stored":
        return None
    return (
        f"vllm would not load the base model as {precision.name} does here: give vllm_merged, or for the quantized "
        "weights in 16 bits vllm_merged_dequantized"
    )


def why_not_lora(config: Mapping[str, Any]) -> str | None:
    """Return why vllm would not compute what peft does with a LoRA of this configuration; None if it does.

    Args:
        config: the fields of peft's ``adapter_config.json``, or some of them.
    """
    if config.get("rank_pattern") or config.get("alpha_pattern"):
        return f"{_PATTERNS}; {_MERGED}"
    if config.get("use_dora"):
        return f"vllm has no DoRA; {_MERGED} or vllm_as_lora_8"
    start = config.get("init_lora_weights", True)
    if start not in _PLAIN_STARTS:
        return f"vllm has no adapters with init_lora_weights {start}, which change the base model; {_MERGED}"
    others = {name: value for name, value in config.items() if name not in _AS_PLAIN and value not in (None, False)}
    named = [name for name, value in others.items() if value not in ({}, [], "", "none")]
    if named:
        return f"a LoRA with {', '.join(named)} is not known to be the same in vllm; {_MERGED}"
    return None


def why_not_modules(names: Iterable[str]) -> str | None:
    """Return why vllm would not compute an adapter of these modules as peft does; None if it would.

    Args:
        names: the last part of each module's name.
    """
    outside = sorted({*names} & {"lm_head", "embed_tokens", "wte", "embed_in", "embed_out"})
    if not outside:
        return None
    return (
        f"an adapter of {' and '.join(outside)}: vllm leaves it out of the log-probabilities of given texts "
        f"(vllm-project/vllm#51594); {_MERGED}"
    )


def why_not_trial(trial: Trial) -> str | None:
    """Return why no form of a trial is scored by another engine, whatever its method; None if they may be."""
    if trial.evaluation.generation != "greedy":
        return (
            f"another engine is asked for greedy decoding alone; evaluate.generation is {trial.evaluation.generation}"
        )
    for task in trial.tasks:
        if task.name in trial.evaluate and (task.num_beams > 1 or task.no_repeat_ngram_size):
            key = "num_beams" if task.num_beams > 1 else "no_repeat_ngram_size"
            return f"{_GREEDY}; task {task.name!r} has {key}"
    return None
