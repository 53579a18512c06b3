"""LoRA by the fields of peft's own config: starts that need data, and proofs that every given field has an effect."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from torch import nn

from peftbench.errors import Unsupported, UserError, unknown
from peftbench.methods import lora_calibration, lora_fields, lora_initialization
from peftbench.methods.lora_calibration import ADAPTER, layers
from peftbench.models import head

_NAME = "peft LORA"
_LATER = ("eva", "corda", "lora_ga")
"""Starts that are applied after the adapter was attached."""
_MARKS: Mapping[str, str] = MappingProxyType(
    {
        "use_dora": "DoraLinearVariant",
        "velora_config": "VeloraLinearVariant",
        "alora_invocation_tokens": "ALoraLinearVariant",
        "monteclora_config": "MontecloraLinearVariant",
        "use_bdlora": "BdLoraLinearVariant",
        "kasa_config": "KasaLinearVariant",
    }
)
"""Field of a variant -> the class that peft gives each adapted layer with it."""


def prepare(model: nn.Module, config: Any) -> str:
    """Check what is given before the base model is changed; return the start to apply after attaching, or "".

    A base without weights (the planner's) gets plain starts of the same sizes.

    Raises:
        UserError: if a start or a token does not exist.
        Unsupported: if a field has no effect, or a start or DoRA does not exist on this base model.
    """
    start = config.init_lora_weights
    named = start if isinstance(start, str) else "kaiming"
    niter = re.fullmatch(r"pissa_niter_\d+", named)
    if config.alora_invocation_tokens and head.placed_in(model) is not None:
        raise Unsupported(
            f"{_NAME}: alora_invocation_tokens: peft looks for the invocation in models that predict tokens only, so "
            "with a head nothing would be adapted"
        )
    if isinstance(start, str) and start not in lora_fields.STARTS and not niter:
        raise UserError(f"{_NAME}: init_lora_weights: " + unknown("start", start, lora_fields.STARTS))
    if any(p.is_meta for p in model.parameters()):
        return _without_weights(config, named)
    options = {"target_modules": config.target_modules, "dora": config.use_dora, "dropout": 0.0}
    lora_initialization.check(model, "pissa" if niter else named, options, _NAME)
    _check_tokens(model, config)
    _check_replication(model, config.layer_replication)
    if config.alora_invocation_tokens:
        _check_invocation(model, list(config.alora_invocation_tokens))
    if named in _LATER:
        config.init_lora_weights = True if named != "eva" else "eva"
    return named


def _without_weights(config: Any, named: str) -> str:
    for field in ("alora_invocation_tokens", "monteclora_config"):
        if lora_fields.is_given(vars(config), field):  # not ``Unsupported``: a run can do it
            raise NotImplementedError(f"{field}: the memory depends on the tokens or on samples drawn in advance")
    if named != "mica":
        config.init_lora_weights = True
    return ""


def _check_tokens(model: Any, config: Any) -> None:
    """Check the ids of tokens: peft raises an IndexError, or ignores them."""
    size = model.get_input_embeddings().num_embeddings
    indices = config.trainable_token_indices or []
    lists = list(indices.values()) if isinstance(indices, dict) else [indices]
    for field, ids in (
        *(("trainable_token_indices", ids) for ids in lists),
        ("alora_invocation_tokens", config.alora_invocation_tokens or []),
    ):
        wrong = [i for i in ids if not 0 <= i < size]
        if wrong:
            raise UserError(f"{_NAME}: {field}: given {wrong[0]}; allowed: ids of tokens, 0 to {size - 1}")


def _check_replication(model: Any, wanted: Sequence[Sequence[int]] | None) -> None:
    order = [i for start, end in wanted or () for i in range(start, end)]
    if wanted and order == list(range(model.config.num_hidden_layers)):
        raise Unsupported(f"{_NAME}: layer_replication has no effect: it gives the base's layers in their order")


def _check_invocation(model: Any, tokens: Sequence[int]) -> None:
    """Check where aLoRA's invocation stands in the trial's training examples: in every prompt, and not at its start.

    Raises:
        Unsupported: if an example lacks it, so that aLoRA would learn nothing from it; if it is in the answer, which
            a prompt to be answered does not have; or if all examples begin with it, which is plain LoRA.
    """
    examples = [e for step in model.peftbench_origin.step_examples for e in step]
    starts = [_last(e.ids, tokens) for e in examples]
    shown = f"{_NAME}: alora_invocation_tokens: {list(tokens)}"
    absent = sum(at is None for at in starts)
    if absent:
        raise Unsupported(f"{shown} are absent from {absent:,} of {len(examples):,} training examples")
    late = sum(at is not None and 1 < e.loss_from < at + len(tokens) for at, e in zip(starts, examples, strict=True))
    if late:
        raise Unsupported(
            f"{shown} last occur in the answer, not the prompt, of {late:,} of {len(examples):,} examples"
        )
    if examples and not any(starts):
        raise Unsupported(f"{shown} begin every example, so that all tokens are adapted: plain LoRA")


def _last(ids: Sequence[int], tokens: Sequence[int]) -> int | None:
    """Return where the last occurrence of some tokens starts; None if there is none."""
    n = len(tokens)
    return next((i for i in range(len(ids) - n, -1, -1) if list(ids[i : i + n]) == list(tokens)), None)


def finish(tuned: Any, start: str, given: Mapping[str, Any]) -> None:
    """Apply a start that needs data, and prove that every given field has an effect.

    Args:
        tuned: the model as peft attached it.
        start: what ``prepare`` returned.
        given: the fields of the block.

    Raises:
        Unsupported: if a field has no effect on this base model, with the reason.
    """
    for why in _without_effect(tuned, given):
        raise Unsupported(f"{_NAME}: {why}")
    config = tuned.peft_config[ADAPTER]
    if not start:
        for layer in layers(tuned).values():
            getattr(layer, "_lora_kasa_truncation_deferred", set()).clear()
        return
    if start == "lora_ga":
        lora_calibration.pefts_lora_ga(tuned, config.lora_ga_config)
    elif start == "corda":
        lora_calibration.corda(tuned, config)
    lora_initialization.apply(tuned, start, _NAME)


def _without_effect(tuned: Any, given: Mapping[str, Any]) -> Iterator[str]:
    """Yield why given fields have no effect."""
    found = layers(tuned)
    for field, kind in _MARKS.items():
        if not lora_fields.is_given(given, field):
            continue
        for name, layer in found.items():
            if kind.removesuffix("LinearVariant") not in type(layer.lora_variant.get(ADAPTER)).__name__:
                base = type(layer.get_base_layer()).__name__
                yield f"{field} has no effect on {name}, since peft ignores it on layers of the kind {base}"
    trained = [name for name, p in tuned.named_parameters() if p.requires_grad]
    if given.get("init_lora_weights") == "mica" and any("lora_B" in name for name in trained):
        yield "init_lora_weights: mica has no effect: B is not frozen"
    for field, check in _EFFECTS.items():
        if lora_fields.is_given(given, field):
            yield from check(tuned, given[field])


def _bias(tuned: Any, wanted: str) -> Iterator[str]:
    names = [n for n, p in tuned.named_parameters() if p.requires_grad and n.endswith("bias") and "lora_" not in n]
    if wanted != "none" and not names:
        yield f"bias: {wanted} has no effect: the base has no such biases"


def _groups(tuned: Any, _: Any) -> Iterator[str]:
    config = tuned.peft_config[ADAPTER].velora_config
    if config.scale == 1 and all(m.in_features <= config.num_groups for m in layers(tuned).values()):
        yield (
            f"velora_config: num_groups of {config.num_groups} has no effect: no adapted layer is wider, so that "
            "nothing is compressed"
        )


def _blocks(tuned: Any, _: Any) -> Iterator[str]:
    config = tuned.peft_config[ADAPTER].use_bdlora
    for key in ("target_modules_bd_a", "target_modules_bd_b"):
        for pattern in getattr(config, key) or ():
            if not any(pattern in name for name in layers(tuned)):
                yield f"use_bdlora: {key}: {pattern!r} matches no adapted layer"
    if not any(type(m).__name__ == "BlockDiagonalLinear" for m in tuned.modules()):
        yield "use_bdlora has no effect: no layer is block-diagonal"


def _tied(tuned: Any, _: Any) -> Iterator[str]:
    config = tuned.peft_config[ADAPTER]
    if not (getattr(config, "modules_to_tie", None) or getattr(config, "target_modules_to_tie", None)):
        yield "ensure_weight_tying has no effect: no tied weights are among what is adapted"


_EFFECTS: Mapping[str, Callable[[Any, Any], Iterator[str]]] = MappingProxyType(
    {
        "bias": _bias,
        "velora_config": _groups,
        "use_bdlora": _blocks,
        "ensure_weight_tying": _tied,
    }
)
"""Field -> what yields why a given value has no effect on the attached model."""
