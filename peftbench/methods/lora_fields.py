"""What happens to each field of peft's ``LoraConfig`` (0.21): accepted, or refused with the reason. No torch.

peft ignores many settings without an error: those of a variant that a layer's kind does not have, of another
initialization than the one asked for, of terms of a loss that its model does not add by itself. A trial with such a
setting would be plain LoRA under another name, so what has no effect is refused, here or in ``lora_variants``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

_NO_LOSS = "acts only through a term that is added to the loss, and every method trains on the same loss"
_NO_DATA = "reads and writes files beside the trial; what it would contain is computed from the training examples"
_LAYERS = "peft sets it by the kind of each layer, whatever is given"
_GPTQ = "peft has QA-LoRA for GPTQ bases only, and ignores it on others; peftbench has no GPTQ precision"

ACCEPTED: Mapping[str, str] = MappingProxyType(
    {
        "r": "rank",
        "target_modules": "every listed name must match",
        "exclude_modules": "must exclude something",
        "lora_alpha": "scale",
        "lora_dropout": "dropout",
        "bias": "trains biases; refused if there is none",
        "use_rslora": "scale",
        "modules_to_save": "trains whole modules; every name must match",
        "init_lora_weights": "starts of A and B; see ``STARTS``",
        "layers_to_transform": "which layers",
        "layers_pattern": "peft requires layers_to_transform with it",
        "rank_pattern": "every pattern must match",
        "alpha_pattern": "every pattern must match",
        "trainable_token_indices": "trains rows of the embedding",
        "eva_config": "only with init_lora_weights: eva",
        "corda_config": "only with init_lora_weights: corda",
        "lora_ga_config": "only with init_lora_weights: lora_ga",
        "use_dora": "magnitudes",
        "velora_config": "compressed activations; changes the gradient only",
        "alora_invocation_tokens": "adapts what follows the tokens, which every training prompt must have",
        "monteclora_config": "noise on A while it trains",
        "layer_replication": "repeats layers of the base",
        "lora_bias": "bias of B",
        "target_parameters": "adapts parameters that are not of linear layers",
        "use_bdlora": "block-diagonal A or B",
        "kasa_config": "truncates the base's weights, trains singular values",
        "ensure_weight_tying": "must tie something",
    }
)
"""Accepted field -> what it does, or what is checked of it."""

REFUSED: Mapping[str, str] = MappingProxyType(
    {
        "fan_in_fan_out": _LAYERS,
        "megatron_config": "it is for layers of Megatron-LM, which peftbench does not train",
        "megatron_core": "it is for layers of Megatron-LM, which peftbench does not train",
        "loftq_config": "peft's LoftQ needs CUDA and ignores the scale of the update; use lora's initialization: loftq",
        "use_qalora": _GPTQ,
        "qalora_group_size": _GPTQ,
        "runtime_config": "its only setting moves parts of a base between host and GPU, and a base is on one device",
        "arrow_config": "Arrow trains nothing: it routes between adapters that are already trained",
    }
)
"""Refused field -> why no value but the default is accepted."""

_NESTED: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "kasa_config": {"beta": _NO_LOSS, "gamma": _NO_LOSS},
        "monteclora_config": {"use_entropy": _NO_LOSS, "dirichlet_prior": _NO_LOSS, "kl_loss_weight": _NO_LOSS},
        "corda_config": {
            "cache_file": _NO_DATA,
            "covariance_file": _NO_DATA,
            "verbose": "it only prints",
            "prune_temporary_fields": "it only frees memory",
        },
        "eva_config": dict.fromkeys(
            ("use_label_mask", "label_mask_value"), "EVA reads all tokens of the training examples but padding"
        ),
    }
)
"""Field that is a config -> its keys that have no effect here, and why."""

STARTS = ("gaussian", "eva", "olora", "pissa", "corda", "orthogonal", "mica", "lora_ga")
"""Accepted names of ``init_lora_weights`` besides true and false, and ``pissa_niter_N``."""
VARIANTS = (
    "use_dora",
    "velora_config",
    "alora_invocation_tokens",
    "monteclora_config",
    "use_bdlora",
    "kasa_config",
)
"""Fields that give the adapted layers another forward or backward pass: one at most."""
_STARTS_OF = {"eva_config": "eva", "corda_config": "corda", "lora_ga_config": "lora_ga"}
_OWN_START = {
    "use_bdlora": "its block-diagonal matrices have a start of their own",
    "kasa_config": "it changes the base's weights itself",
    "alora_invocation_tokens": "on tokens that are not adapted the base's weights must be its own",
}
"""Variants that do not go with another start, and why."""


def refusal(given: Mapping[str, Any]) -> str | None:
    """Return why LoRA does not exist with these fields, on any base model; None if nothing here forbids it."""
    return next(_problems(given), None)


def is_given(given: Mapping[str, Any], name: str) -> bool:
    """Whether a field is given with another value than false or null."""
    return given.get(name) not in (None, False)


def _config(given: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return a field that is a config; empty if it is not given, or wrong, which peft's own config then says."""
    found = given.get(name)
    return found if isinstance(found, Mapping) else {}


def _problems(given: Mapping[str, Any]) -> Iterator[str]:
    for name, why in REFUSED.items():
        if is_given(given, name):
            yield f"{name}: {why}"
    for name, keys in _NESTED.items():
        for key, why in keys.items():
            if key in _config(given, name):
                yield f"{name}: {key}: {why}"
    yield from _combinations(given)
    yield from _values(given)


def _combinations(given: Mapping[str, Any]) -> Iterator[str]:
    start = given.get("init_lora_weights", True)
    if start == "loftq":
        yield f"init_lora_weights: loftq: {REFUSED['loftq_config']}"
    for name, wanted in _STARTS_OF.items():
        if is_given(given, name) and start != wanted:
            yield f"{name} has no effect without init_lora_weights: {wanted}"
    both = [name for name in VARIANTS if is_given(given, name)] + ["init_lora_weights: mica"] * (start == "mica")
    if len(both) > 1:
        yield f"{' and '.join(both)} do not go together in peft"
    for name, why in _OWN_START.items():
        if is_given(given, name) and start is not True:
            yield f"{name} does not go with init_lora_weights: {start}: {why}"


def _values(given: Mapping[str, Any]) -> Iterator[str]:
    if given.get("alora_invocation_tokens") == []:
        yield "alora_invocation_tokens: an empty list means plain LoRA"
    if _config(given, "corda_config").get("corda_method") == "kpm":
        yield "corda_config: corda_method: kpm keeps what other data teaches, and a trial has training examples only"
    if is_given(given, "use_bdlora") and _config(given, "use_bdlora").get("nblocks", 1) == 1:
        yield "use_bdlora: nblocks of 1 means one block, which is plain LoRA; give 2 or more"
    if is_given(given, "use_bdlora") and given.get("lora_bias"):
        yield "use_bdlora does not go with lora_bias: a block-diagonal B has no bias"
    ga = _config(given, "lora_ga_config")
    if "stable_gamma" in ga and ga.get("scale", "stable") != "stable":
        yield "lora_ga_config: stable_gamma has no effect without scale: stable"


def why_no_packing(given: Mapping[str, Any]) -> str:
    """Return why LoRA with these fields does not exist with packing; empty if it does."""
    if not is_given(given, "alora_invocation_tokens"):
        return ""
    return "of all examples in a row, aLoRA adapts only what follows the last invocation"


def why_no_checkpointing(given: Mapping[str, Any]) -> str:
    """Return why LoRA with these fields does not exist with gradient checkpointing; empty if it does."""
    if not is_given(given, "monteclora_config"):
        return ""
    return "a layer that is computed again draws other noise, so that the gradient would be of another output"
