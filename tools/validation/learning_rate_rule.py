"""Fit the default learning rates to published sweeps and recipes: ``python -m tools.validation.learning_rate_rule``.

It reads ``published_tables.yaml`` in or beside the folder that ``PEFTBENCH_SHARED_DATA`` names, prints the coefficients
of ``peftbench.methods.default_rates`` as the tables give them, and how far every source is from its law.
"""

from __future__ import annotations

import argparse
import math
import os
import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from peftbench.methods.default_rates import LORA_ALPHA, REFERENCE_WIDTH

FILE = "published_tables.yaml"
_RANK = 8
"""The rank at which LoRA's constants are given: the default of peftbench."""
_GET_LR = {"llama": 0.781, "Qwen": 0.0775}
"""Exponents of tinker-cookbook's ``get_lr``, 5e-4 (2000 / h) ** p, which give the hidden sizes h of its models."""
_EXPERTS = re.compile(r"-A\d+B")
"""The active parameters in the names of models with experts."""
_GPT3, _LLAMA_7B, _LLAMA_65B, _LLAMA_3B, _T5_XXL, _QWEN_06B = 12_288, 4096, 8192, 3072, 4096, 1024
_GPT2_MEDIUM, _BART, _BERT_LARGE, _ROBERTA_LARGE, _ROBERTA, _DEBERTA_XXL = 1024, 1024, 1024, 1024, 768, 1536
_SOURCES = (  # law, entry of hyperparameters, keys, hidden size
    ("lora", "lora_roberta_base_glue", ("per_task", "SST2", "lr"), _ROBERTA),
    ("lora", "lora_roberta_large_glue", ("per_task", "SST2", "lr"), _ROBERTA_LARGE),
    ("lora", "lora_deberta_v2_xxlarge_glue", ("per_task", "MNLI", "lr"), _DEBERTA_XXL),
    ("lora", "lora_gpt2_e2e", ("common", "lr"), _GPT2_MEDIUM),
    ("lora", "gpt3_175b_lrs", ("lr", "lora"), _GPT3),
    ("lora", "qlora_guanaco_7b", ("by_size", "7B", "lr"), _LLAMA_7B),
    ("lora", "qlora_guanaco_7b", ("by_size", "65B", "lr"), _LLAMA_65B),
    ("lora", "lora_lit_llama", ("common", "lr"), _LLAMA_7B),
    ("lora", "biderman2024_llama2_7b", ("lr_search", "best_lora_code"), _LLAMA_7B),
    ("lora", "biderman2024_llama2_7b", ("lr_search", "best_lora_math"), _LLAMA_7B),
    ("full", "full_lit_llama", ("common", "lr"), _LLAMA_7B),
    ("full", "pissa_metamath_llama2_7b", ("common", "lr"), _LLAMA_7B),
    ("full", "biderman2024_llama2_7b", ("lr_search", "best_full_code"), _LLAMA_7B),
    ("full", "biderman2024_llama2_7b", ("lr_search", "best_full_math"), _LLAMA_7B),
    ("full", "hf_method_comparison_metamathqa", ("methods", "full", "lr"), _LLAMA_3B),
    ("full", "gpt3_175b_lrs", ("lr", "full"), _GPT3),
    ("small", "gpt3_175b_lrs", ("lr", "bitfit"), _GPT3),
    ("small", "peftbench_llama3_8b", ("methods", "bitfit", "lr"), _LLAMA_7B),
    ("adapter", "houlsby_bert", ("common", "lr"), _BERT_LARGE),
    ("adapter", "adapters_roberta_large_mnli_in_lora_paper", ("common", "lr"), _ROBERTA_LARGE),
    ("adapter", "gpt3_175b_lrs", ("lr", "adapter_houlsby"), _GPT3),
    ("adapter", "llm_adapters_math_llama7b", ("methods", "adapter_series", "lr"), _LLAMA_7B),
    ("adapter", "llm_adapters_math_llama7b", ("methods", "adapter_parallel", "lr"), _LLAMA_7B),
    ("adapter", "peftbench_llama3_8b", ("methods", "bn_adapter", "lr"), _LLAMA_7B),
    ("llama_adapter", "llama_adapter_paper", ("repo", "blr"), _LLAMA_7B),
    ("llama_adapter", "llama_adapter_paper", ("lit_llama", "lr"), _LLAMA_7B),
    ("llama_adapter", "hf_method_comparison_metamathqa", ("methods", "adaption_prompt", "lr"), _LLAMA_3B),
    ("prefix", "gpt3_175b_lrs", ("lr", "prefix_PreLayer"), _GPT3),
    ("prefix", "llm_adapters_math_llama7b", ("methods", "prefix_tuning", "lr"), _LLAMA_7B),
    ("prefix", "hf_method_comparison_metamathqa", ("methods", "prefix_tuning", "lr"), _LLAMA_3B),
    ("prefix_mlp", "prefix_tuning_li_liang", ("e2e", "lr"), _GPT2_MEDIUM),
    ("prefix_mlp", "prefix_tuning_li_liang", ("xsum", "lr"), _BART),
    ("prefix_mlp", "peftbench_llama3_8b", ("methods", "prefix_tuning", "lr"), _LLAMA_7B),
    ("prompt", "prompt_tuning_lester", ("common", "lr"), _T5_XXL),
    ("prompt", "gpt3_175b_lrs", ("lr", "prompt_tuning_PreEmbed"), _GPT3),
    ("prompt", "peftbench_llama3_8b", ("methods", "prompt_tuning", "lr"), _LLAMA_7B),
    ("prompt", "hf_method_comparison_metamathqa", ("methods", "prompt_tuning", "lr"), _LLAMA_3B),
)


class Optimum(NamedTuple):
    """The best rate of one model at one rank in a sweep."""

    model: str
    width: int
    rank: int
    rate: float


@dataclass(frozen=True)
class Fit:
    """What the tables give."""

    width_exponent: float
    rank_exponent: float
    """Of LoRA's rank at a constant alpha; too small to be used."""
    experts_width: int
    """The width at which the law of dense models gives the rate of mixtures of experts, to hundreds."""
    alpha_exponent: float
    initializations: Mapping[str, float]
    constants: Mapping[str, float]
    spreads: Mapping[str, float]
    """By law: the largest factor between a source and the law."""
    lines: tuple[str, ...]
    """What each law was fitted to or compared with."""


def tables() -> Path | None:
    """Return the file with the published tables; None if it is not on this machine."""
    named = os.environ.get("PEFTBENCH_SHARED_DATA")
    places = [Path(named) / FILE, Path(named).parent / FILE] if named else []
    return next((path for path in places if path.is_file()), None)


def fit(path: Path) -> Fit:
    """Fit every coefficient to the tables in a file."""
    read = yaml.safe_load(path.read_text(encoding="utf-8"))
    table = {each["id"]: each for each in read["tables"]}
    optima = list(_optima(table["tinker_sft_sweep"], _widths(table["tinker_sft_sweep_best"])))
    dense = [each for each in optima if not _EXPERTS.search(each.model)]
    mixed = [each for each in optima if _EXPERTS.search(each.model)]
    (lora, width, rank), lora_off = _plane(dense, True)
    (experts, _), experts_off = _plane(mixed, False)
    claims = {each["claim"]: each["values"]["value"] for each in table["lora_without_regret_claims"]["rows"]}
    constants = {"lora": lora, "full": lora / claims["the same ratio, fitted over 14 models on Tulu3"]}
    spreads = {"lora": _largest(lora_off)}
    lines = [_swept("lora", dense, lora_off), _swept("experts", mixed, experts_off)]
    given = {each["id"]: each for each in read["hyperparameters"]}
    for law in dict.fromkeys(name for name, *_ in _SOURCES):
        each = [(entry, _rate(given[entry], keys), h) for name, entry, keys, h in _SOURCES if name == law]
        at_reference = [value * (h / REFERENCE_WIDTH) ** -width for _, value, h in each]
        constant = constants.setdefault(law, math.exp(statistics.median(map(math.log, at_reference))))
        off = [value / constant for value in at_reference]
        spreads[law] = max(spreads.get(law, 1.0), _largest(off))
        lines += [
            f"{law}: {entry}: {value:g} at width {h:,}, {factor:.2g} x the law"
            for (entry, value, h), factor in zip(each, off, strict=True)
        ]
    alpha = _alpha_exponent(table, given["biderman2024_llama2_7b"], lora, width)
    counts_as = round(REFERENCE_WIDTH * (experts / lora) ** (1 / width), -2)
    return Fit(width, rank, int(counts_as), alpha, _initializations(table), constants, spreads, tuple(lines))


def _widths(best: Mapping[str, Any]) -> dict[str, int]:
    """Return the hidden size of each model for which the table has ``get_lr``, to a multiple of 256."""
    found = {}
    for row in best["rows"]:
        power = next((p for name, p in _GET_LR.items() if name in row["model"]), None)
        if power and "get_lr" in row["values"]:
            found[row["model"]] = 256 * round(2000 / (row["values"]["get_lr"] / 5e-4) ** (1 / power) / 256)
    return found


def _optima(sweep: Mapping[str, Any], widths: Mapping[str, int]) -> Iterator[Optimum]:
    """Yield the best rate of each model of known width and each rank with three rates or more."""
    for row in sweep["rows"]:
        losses = sorted((float(name.removeprefix("lr_")), loss) for name, loss in row["values"].items())
        if row["model"] in widths and len(losses) > 2:
            yield Optimum(row["model"], widths[row["model"]], row["r"], _best(losses))


def _best(losses: Sequence[tuple[float, float]]) -> float:
    """Return the rate at the vertex of the parabola through the best of (rate, loss) and its neighbours.

    At the edge, where the next rate diverged or was not run, it is the best rate itself.
    """
    x = [math.log(rate) for rate, _ in losses]
    y = [loss for _, loss in losses]
    i = int(np.argmin(y))
    if not 0 < i < len(x) - 1:
        return losses[i][0]
    a, b, _ = np.polyfit(x[i - 1 : i + 2], y[i - 1 : i + 2], 2)
    return math.exp(-b / (2 * a))


def _plane(optima: Sequence[Optimum], with_width: bool) -> tuple[tuple[float, ...], list[float]]:
    """Fit log rate by least squares to log rank and perhaps log width.

    Returns:
        The rate at the reference width and rank, the exponents of width (if used) and rank; each optimum over its fit.
    """
    columns = [[1.0] * len(optima)]
    if with_width:
        columns.append([math.log(each.width / REFERENCE_WIDTH) for each in optima])
    columns.append([math.log(each.rank / _RANK) for each in optima])
    x, y = np.array(columns).T, np.log([each.rate for each in optima])
    found = np.linalg.lstsq(x, y, rcond=None)[0]
    return (math.exp(found[0]), *map(float, found[1:])), [math.exp(off) for off in y - x @ found]


def _rate(entry: Mapping[str, Any], keys: Sequence[str]) -> float:
    """Return a rate of a recipe; a base rate is scaled by its batch, and of "5e-4; 5e-3 from ..." the later counts."""
    found: Any = entry
    for key in keys:
        found = found[key]
    if keys[-1] == "blr":
        return float(found * entry[keys[0]]["per_device_batch"] * entry[keys[0]]["gpus"] / 256)
    return float(str(found).split("; ")[-1].split()[0])


def _alpha_exponent(table: Mapping[str, Any], biderman: Mapping[str, Any], lora: float, width: float) -> float:
    """Return the mean of two exponents of alpha.

    One is of the best rate at alpha 128 on Qwen3-0.6B against the law at alpha 32. The other is of the rates of
    Biderman et al. for rank 256 against rank 16, with alpha twice the rank: alpha 512 against 32.
    """
    rows = [row for row in table["lr_matters_qwen3_metamath"]["rows"] if row["method"] == "lora"]
    best = _best([(row["lr"], -row["values"]["Avg"]) for row in rows])
    law = lora * (_QWEN_06B / REFERENCE_WIDTH) ** width
    first = math.log(best / law) / math.log(128 / LORA_ALPHA)
    low, high = map(float, re.findall(r"([\d.e-]+) \(r", biderman["per_setting"]["code_ift"]["lr_lora"]))
    return (first + math.log(high / low) / math.log(512 / LORA_ALPHA)) / 2


def _initializations(table: Mapping[str, Any]) -> dict[str, float]:
    """Return the best rates of initializations over that of LoRA."""
    best = {row["method"]: row["lr"] for row in table["lr_matters_qwen3_best"]["rows"]}
    return {name: best[name] / best["lora"] for name in ("pissa", "olora", "lora_ga")}


def _largest(factors: Sequence[float]) -> float:
    return math.exp(max(abs(math.log(factor)) for factor in factors))


def _swept(law: str, optima: Sequence[Optimum], off: Sequence[float]) -> str:
    models = len({each.model for each in optima})
    spread = math.exp(statistics.pstdev(map(math.log, off)))
    return f"{law}: {len(optima)} optima of {models} models; residual: a factor of {spread:.2f} (standard deviation)"


def main() -> None:
    """Print the fit."""
    argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0]).parse_args()
    path = tables()
    if path is None:
        raise SystemExit(f"no {FILE} in or beside the folder that PEFTBENCH_SHARED_DATA names")
    found = fit(path)
    print(
        f"exponent of the width {found.width_exponent:.2f}, of the rank {found.rank_exponent:.2f}, of alpha above 32 "
        f"{found.alpha_exponent:.2f}"
    )
    print(f"a mixture of experts counts as {found.experts_width:,} wide")
    for name, factor in found.initializations.items():
        print(f"initialization {name}: {factor:.3g} x")
    for law, constant in found.constants.items():
        print(
            f"{law}: {constant:.2g} at width {REFERENCE_WIDTH:,}; sources within a factor of {found.spreads[law]:.2g}"
        )
    print("\n".join(found.lines))


if __name__ == "__main__":
    main()
