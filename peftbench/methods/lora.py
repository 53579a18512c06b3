"""LoRA and its variants, and QLoRA, which is LoRA on all linear layers of a 4-bit base model."""

from __future__ import annotations

import json
import math
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peft import LoraConfig, get_peft_model
from torch import nn

from peftbench.errors import UserError, unknown
from peftbench.methods import (
    lora_experts,
    lora_fa,
    lora_fused_projection,
    lora_initialization,
    lora_plus,
    lora_targets,
    peft_checkpoint,
)
from peftbench.records import patterns as expressions
from peftbench.training import riemannian

_PEFT_STARTS: Mapping[str, bool | str] = {"kaiming": True, "loftq": True, "lora_ga": True}
"""Initializations that peft names differently; loftq and lora_ga are applied after the adapter was attached."""


def attach(model: nn.Module, rank: int, options: Mapping[str, Any]) -> nn.Module:
    """Add a trainable low-rank update to the target modules.

    Each frozen weight W of shape (out, in) acts as W + s B A, with s = alpha / r (rsLoRA: alpha / sqrt(r)), A of shape
    (r, in) and B of shape (out, r). With DoRA it acts as m (W + s B A) / |W + s B A|, with the norm of each row, and m
    of shape (out,) initialized to the norms of W.

    By default A is Kaiming-uniform and B zero, so the first forward pass equals the base model's. The same holds for
    ``gaussian`` (A normal with standard deviation 1/r) and ``eva``, and up to rounding for ``pissa``, ``olora`` and
    ``lora_ga``.
    ``loftq`` instead starts closer to the unquantized base model. See ``lora_initialization``.

    Merging W + s B A into the weights (peft's ``merge_adapter``) rounds to their storage dtype. On the tests' base
    model, whose logits have a standard deviation of 1.6, merging after training changes a logit by at most 2e-5 in
    fp32, 0.05 in fp16, 0.3 in bf16, 0.6 in int8, and 2 in nf4 and fp4, where the sum is quantized again. Unmerging
    restores fp32 weights up to 1e-6 and 16-bit ones up to a rounding step; int8 and 4-bit weights are rounded a second
    time and not restored.

    Args:
        model: the frozen base model.
        rank: r.
        options: ``alpha`` (a number), ``dropout``, ``target_modules`` (also parts of gpt2's fused projection, such as
            ``c_attn.q``: see ``lora_fused_projection``), ``rank_pattern`` and ``alpha_pattern`` (r and alpha by regular
            expression that a module's name ends with), ``rslora``, ``dora``, ``initialization``,
            ``lora_plus_ratio`` (see ``lora_plus``), ``lora_fa`` (see ``lora_fa``), ``experts``
            (``auto`` for what peft adapts of a mixture of experts, else see ``lora_experts``).

    Returns:
        The base model wrapped by peft; only A, B and m require gradients, with ``lora_fa`` only B.

    Raises:
        UserError: if a module name or pattern matches nothing, naming the modules there are.
        Unsupported: if the initialization does not exist on this base model, or a target module is not a plain
            projection.

    References:
        Hu et al. 2021, arXiv:2106.09685, section 4.1; Dettmers et al. 2023, arXiv:2305.14314, section 4 (all linear
        layers); Kalajdzievski 2023, arXiv:2312.03732 (rsLoRA); Liu et al. 2024, arXiv:2402.09353, section 4.1 (DoRA;
        no gradient flows through the norm, as section 4.3 proposes). Differs from the first: by default all linear
        layers are adapted, not only attention.
    """
    start = options.get("initialization", "kaiming")
    lora_initialization.check(model, start, options)
    patterns = {key: _patterns(key, options.get(key, {}), model) for key in ("rank_pattern", "alpha_pattern")}
    targets, parts = lora_fused_projection.split(model, options["target_modules"])
    own = {key: dict(options.get(key, {})) for key in patterns}
    if parts:
        own = lora_fused_projection.config(parts, rank, options)
    adapted = {**lora_targets.targets(model, targets), **own}
    if options.get(lora_experts.OPTION, lora_experts.AUTO) != lora_experts.AUTO:
        adapted = lora_experts.config(model, lora_targets.named(model, adapted), rank, options, own)
    given = {key: dict(adapted.get(key, {})) for key in patterns}  # peft changes those of the config
    config = LoraConfig(
        r=rank,
        lora_alpha=options["alpha"],
        lora_dropout=options["dropout"],
        **adapted,
        use_rslora=options.get("rslora", False),
        use_dora=options.get("dora", False),
        init_lora_weights=_PEFT_STARTS.get(start, start),
        task_type=peft_checkpoint.task_type(model),
        **lora_initialization.config(model, start, rank, options),
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*fan_in_fan_out.*")  # peft detects gpt2's Conv1D itself, with a warning
        warnings.filterwarnings("ignore", ".*_pattern keys did not match.*")  # raised as an error below
        tuned = get_peft_model(model, config)
    peft_checkpoint.keep_tied(tuned)
    names = lora_experts.names(tuned.get_base_model())
    for key, found in patterns.items():
        for pattern, matches in found.items():
            if not any(matches.match(name) for name in names):
                raise UserError(f"lora: {key}: " + unknown("module", pattern, lora_targets.ending_set(names)))
    lora_experts.check_patterns(tuned, given, patterns)
    lora_initialization.apply(tuned, start)
    lora_fused_projection.restrict(tuned, parts)
    lora_plus.mark(tuned, options.get(lora_plus.OPTION, 1.0))
    if options.get(lora_fa.OPTION):
        lora_fa.freeze(tuned)
    if options.get("riemannian"):
        for a, b, _ in lora_fa.pairs(tuned, "riemannian"):
            riemannian.mark(a, b)
    return tuned


def _patterns(key: str, given: Mapping[str, Any], model: nn.Module) -> dict[str, re.Pattern[str]]:
    """Return the regular expressions with which peft matches modules to patterns (its ``get_pattern_key``)."""
    try:
        found = {pattern: re.compile(rf"(.*\.)?({pattern})$") for pattern in given}
        for each in found.values():
            expressions.matches(each.pattern, (name for name, _ in model.named_modules()))
        return found
    except expressions.TooSlow as error:
        raise UserError(f"lora: {key}: {error}") from None
    except (re.error, ValueError, OverflowError) as error:
        raise UserError(f"lora: {key}: given {', '.join(given)}; allowed: regular expressions ({error})") from None


def save(model: Any, folder: Path) -> None:
    """Write the adapter in peft's format, to be loaded on the original base.

    PiSSA, OLoRA, CorDA and LoRA-GA trained on W - s B0 A0: what they are to the original W is the update
    s (B A - B0 A0), a LoRA of twice the rank. It is written as such, A over A0 and B beside -B0, with alpha set so that
    s stays. On an fp32 base it gives the trained model's logits; on a 16-bit one they differ by the rounding of
    W - s B0 A0 (0.3 at most on the tests' base, whose logits have a deviation of 1.6).
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
    config |= {"init_lora_weights": True, "corda_config": None, "lora_ga_config": None}
    config["r"] *= 2
    config["rank_pattern"] = {key: 2 * rank for key, rank in config["rank_pattern"].items()}
    config["lora_alpha"] *= factor
    config["alpha_pattern"] = {key: factor * alpha for key, alpha in config["alpha_pattern"].items()}
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
