"""LoRA and its variants, and QLoRA, which is LoRA on all linear layers of a 4-bit base."""

from __future__ import annotations

import json
import math
import re
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers.pytorch_utils import Conv1D

from peftbench.errors import Unsupported, UserError, unknown
from peftbench.methods import lora_fused_projection, lora_initialization, peft_checkpoint

_ATTENTION = re.compile(r"(^|_)(attn|attention)$")
"""What the modules that hold attention's projections are called in every family that we know."""
_ROUTER = "Router"
"""How the class of a linear layer ends that picks experts and returns more than its product (llama4, phimoe)."""
_PEFT_STARTS: Mapping[str, bool | str] = {"kaiming": True, "loftq": True}
"""How peft names starts that it names differently; loftq is put in afterwards."""


def attach(model: nn.Module, rank: int, options: Mapping[str, Any]) -> nn.Module:
    """Add a trainable low-rank update to the target modules.

    Each frozen weight W of shape (out, in) acts as W + s B A, with s = alpha / r (rsLoRA: alpha / sqrt(r)), A of shape
    (r, in) and B of shape (out, r). With DoRA it acts as m (W + s B A) / |W + s B A|, norms taken over each row, with
    m of shape (out,) starting at W's own norms.

    By default A starts Kaiming-uniform and B zero, so that the first forward pass equals the base model's; so it does
    with ``gaussian`` (A normal, deviation 1/r) and ``eva``, and up to rounding with ``pissa`` and ``olora``.
    ``loftq`` starts nearer to the unquantized base instead. See ``lora_starts``.

    Merging W + s B A into the weights (peft's ``merge_adapter``) rounds to the base's storage. On the tests' base,
    whose logits have a deviation of 1.6, merging after training moves a logit by at most 2e-5 in fp32, 0.05 in fp16,
    0.3 in bf16, 0.6 in int8 and 2 in nf4 and fp4, where the sum is quantized anew. Unmerging gives back fp32 weights to
    1e-6 and 16-bit ones to a rounding step; int8 and 4-bit ones are rounded a second time and not given back.

    Args:
        model: the frozen base.
        rank: r.
        options: ``alpha`` (a number), ``dropout``, ``target_modules`` (of gpt2's fused projection also its parts,
            ``c_attn.q``: see ``lora_fused_projection``); ``rank_pattern`` and ``alpha_pattern`` (regular expression
            that a module's name ends with -> its own r or alpha), ``rslora``, ``dora``, ``initialization``.

    Returns:
        The base wrapped by peft; only A, B and m require gradients.

    Raises:
        UserError: if a module name or pattern matches nothing, naming what is there.
        Unsupported: if the start does not exist on this base, or a target module is no plain projection.

    References:
        Hu et al. 2021, arXiv:2106.09685, section 4.1; Dettmers et al. 2023, arXiv:2305.14314, section 4 (all linear
        layers); Kalajdzievski 2023, arXiv:2312.03732 (rsLoRA); Liu et al. 2024, arXiv:2402.09353, section 4.1 (DoRA).
        Departs from the first: all linear layers by default where the paper adapts attention only. From DoRA's in
        nothing: as section 4.3 proposes, no gradient flows through the norm.
    """
    start = options.get("initialization", "kaiming")
    lora_initialization.check(model, start, options)
    patterns = {key: _patterns(key, options.get(key, {})) for key in ("rank_pattern", "alpha_pattern")}
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D)]
    targets, parts = lora_fused_projection.split(model, options["target_modules"])
    own = {key: dict(options.get(key, {})) for key in patterns}
    if parts:
        own = lora_fused_projection.config(parts, rank, options)
    config = LoraConfig(
        r=rank,
        lora_alpha=options["alpha"],
        lora_dropout=options["dropout"],
        target_modules=_targets(linear, targets),
        exclude_modules=_routers(model, targets),
        **own,
        use_rslora=options.get("rslora", False),
        use_dora=options.get("dora", False),
        init_lora_weights=_PEFT_STARTS.get(start, start),
        task_type="CAUSAL_LM",
        **lora_initialization.config(model, start, rank, options),
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*fan_in_fan_out.*")  # peft finds gpt2's Conv1D by itself and says so
        warnings.filterwarnings("ignore", ".*_pattern keys did not match.*")  # an error below
        tuned = get_peft_model(model, config)
    adapted = [name for name, module in tuned.get_base_model().named_modules() if isinstance(module, LoraLayer)]
    for key, found in patterns.items():
        for pattern, matches in found.items():
            if not any(matches.match(name) for name in adapted):
                raise UserError(f"lora: {key}: " + unknown("module", pattern, _ending_set(adapted)))
    lora_initialization.apply(tuned, start)
    lora_fused_projection.restrict(tuned, parts)
    return tuned


def _targets(linear: Iterable[str], wanted: str | list[str]) -> str | list[str]:
    """Return peft's ``target_modules``: its own word, or names that are there.

    Raises:
        UserError: if a name matches no linear layer: peft would leave it out without a word if others match.
    """
    if wanted == "all-linear":
        return wanted
    if wanted == "attention":
        found = [name for name in linear if any(_ATTENTION.search(part) for part in name.split(".")[:-1])]
        if not found:
            raise UserError(f"lora: target_modules: no attention projections; linear layers: {_endings(linear)}")
        return found
    for name in wanted:
        if not any(f".{module}".endswith(f".{name}") for module in linear):
            raise UserError("lora: target_modules: " + unknown("module", name, _ending_set(linear)))
    return list(wanted)


def _routers(model: nn.Module, wanted: str | list[str]) -> list[str] | None:
    """Return the linear layers that peft cannot wrap, to be passed over.

    Raises:
        Unsupported: if one of them is asked for by name.
    """
    found = [n for n, m in model.named_modules() if isinstance(m, nn.Linear) and type(m).__name__.endswith(_ROUTER)]
    named = [] if isinstance(wanted, str) else [n for n in wanted if any(f".{m}".endswith(f".{n}") for m in found)]
    if named:
        raise Unsupported(f"lora: target_modules: {named[0]} picks experts, and returns more than its product")
    return found or None


def _patterns(key: str, given: Mapping[str, Any]) -> dict[str, re.Pattern[str]]:
    """Return the expressions by which peft finds the modules of a pattern (its ``get_pattern_key``)."""
    try:
        return {pattern: re.compile(rf"(.*\.)?({pattern})$") for pattern in given}
    except re.error as error:
        raise UserError(f"lora: {key}: given {', '.join(given)}; allowed: regular expressions ({error})") from None


def _ending_set(names: Iterable[str]) -> set[str]:
    return {name.rpartition(".")[2] for name in names}


def _endings(names: Iterable[str]) -> str:
    return ", ".join(sorted(_ending_set(names)))


def save(model: Any, folder: Path) -> None:
    """Write the adapter in peft's format, to be loaded on the original base.

    PiSSA and OLoRA trained on W - s B0 A0: what they are to the original W is the update s (B A - B0 A0), a LoRA of
    twice the rank. It is written as such, A over A0 and B beside -B0, with alpha set so that s stays. On an fp32 base
    it gives the trained model's logits; on a 16-bit one they differ by the rounding of W - s B0 A0 (0.3 at most on the
    tests' base, whose logits have a deviation of 1.6).
    Meng et al. 2024, arXiv:2404.02948, appendix C.
    """
    peft_checkpoint.save(model, folder)
    start = getattr(model, "peftbench_start", None)
    if start is None:
        return
    lora_initialization.subtract(folder / "adapter_model.safetensors", start)
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text())
    # s = alpha / r or alpha / sqrt(r), and r doubles
    factor = math.sqrt(2) if config["use_rslora"] else 2
    config["init_lora_weights"] = True
    config["r"] *= 2
    config["rank_pattern"] = {key: 2 * rank for key, rank in config["rank_pattern"].items()}
    config["lora_alpha"] *= factor
    config["alpha_pattern"] = {key: factor * alpha for key, alpha in config["alpha_pattern"].items()}
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
