"""Results folders like those that reproduce tables of the literature: fixed scores, drawn outcomes, whole settings."""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from peftbench.records import Result
from tests.support.results_factory import drawn, make_result, store

TRAIN = {
    "batch_size": 16,
    "clip_norm": 1.0,
    "epochs": 3.0,
    "gradient_checkpointing": False,
    "learning_rate": 3e-4,
    "loss_on": "completion",
    "micro_batch_size": 4,
    "optimizer": "adamw",
    "schedule": "linear",
    "score": "last",
    "sequence_length": 256,
    "steps": None,
    "warmup_ratio": 0.06,
    "weight_decay": 0.1,
}
LORA = {"alpha": 16.0, "dropout": 0.0, "target_modules": ["query", "value"], "initialization": "kaiming"}
GPU = {"gpus": [{"name": "NVIDIA A100-SXM4-40GB"}], "packages": {"torch": "2.13.0"}, "git": {"commit": "762de46"}}


def task(name: str, dataset: str | None, config: str | None = None, **more: Any) -> dict[str, Any]:
    """Return the settings of a task of a data set, or of files if there is none."""
    given = {"name": name, "kind": "exact_match", "dataset": dataset, "config": config, "splits": {"test": "test"}}
    return {**given, "files": {} if dataset else {"test": "test.jsonl"}, "prompt": "Question: {{ q }}\nAnswer:", **more}


def glue(name: str, kind: str = "classification") -> dict[str, Any]:
    """Return the settings of a GLUE task with a head, scored on the validation split."""
    return task(name, "nyu-mll/glue", name, kind=kind, splits={"train": "train", "test": "validation"})


def score(value: float, examples: int, metric: str, metrics: Mapping[str, float], how: Mapping[str, Any]) -> dict:
    """Return a stored score."""
    return {
        "metric": metric,
        "value": value,
        "metrics": {metric: value, **metrics},
        "examples": examples,
        "settings": how,
    }


def cell(
    base: str,
    method: str,
    scores: Mapping[str, float],
    tasks: list[dict[str, Any]],
    rank: int | None = None,
    precision: str = "fp32",
    seeds: int = 3,
    examples: int = 200,
    metric: str = "accuracy",
    metrics: Mapping[str, float] | None = None,
    options: Mapping[str, Any] | None = None,
    train: Mapping[str, Any] | None = None,
    how: Mapping[str, Any] | None = None,
    **row: Any,
) -> list[Result]:
    """Return the results of a cell: each score is the chance of an example to be right, drawn for each seed."""
    name = " ".join(filter(None, (method, f"r={rank}" if rank else "", precision)))
    settings = {
        "base": {"source": base, "random_weights": False},
        "evaluate": list(scores),
        "evaluation": {"split": "test"},
        "method": method,
        "options": {**(LORA if method in ("lora", "qlora") else {}), **(options or {})},
        "precision": precision,
        "rank": rank,
        "tasks": tasks,
        "train": {**TRAIN, "data": [[one["name"], 1.0] for one in tasks], **(train or {})},
    }
    same = ("learning_rate", "batch_size", "micro_batch_size", "sequence_length", "optimizer")
    row = {name: settings["train"][name] for name in same} | row
    found = []
    for seed in range(seeds):
        made = make_result(
            row.get("cell", name),
            method,
            precision,
            rank,
            seed,
            scores=scores,
            examples=examples,
            steps=1,
            **{
                "key": f"{base} {name} {sorted(scores)} {seed} {row.get('cell', '')}".replace("/", "-"),
                "base": base.rpartition("/")[2],
                "device": "cuda",
                "memory_kind": "allocator",
                "settings_json": json.dumps(settings),
                "environment_json": json.dumps(GPU),
                "named_settings": "",
                **{key: value for key, value in row.items() if key != "cell"},
            },
        )
        made = drawn(made)
        records = {
            one.task: score(one.value, examples, metric, metrics or {}, how or {"num_fewshot": 0})
            for one in made.scores
        }
        found.append(replace(made, row=replace(made.row, scores_json=json.dumps(records))))
    return found


def folder(path: Path, *cells: list[Result], tasks: tuple[str, ...]) -> Path:
    """Write cells as a results folder."""
    return store(path, *(one for results in cells for one in results), tasks=tasks)


ROBERTA, LLAMA, LLAMA2 = "FacebookAI/roberta-base", "yahma/llama-7b-hf", "meta-llama/Llama-2-7b-hf"
GREEDY = {"decoding": {"num_beams": 1, "do_sample": False}, "max_new_tokens": 512, "num_fewshot": 0}
_ALPACA = "Below is an instruction that describes a task. Write a response that appropriately completes the request."


def folders(root: Path, layout: str) -> list[Path]:
    """Write the results folders that the golden table of a layout is made of."""
    return [folder(root / name, *cells, tasks=tasks) for name, cells, tasks in _MADE[layout]()]


def _lora_t2() -> list:
    sizes = {"lora": 294_912, "full": 124_647_170, "adapter": 1_486_080}
    made = []
    for name, examples, rights in (("rte", 277, (0.60, 0.78, 0.7)), ("sst2", 872, (0.93, 0.95, 0.94))):
        cells = []
        for method, right in zip(sizes, rights, strict=True):
            options = {"kind": "houlsby"} if method == "adapter" else {}
            rank = {"lora": 8, "adapter": 64}.get(method)
            cells.append(
                cell(
                    ROBERTA,
                    method,
                    {name: right},
                    [glue(name)],
                    rank,
                    examples=examples,
                    options=options,
                    trainable_parameters=sizes[method],
                )
            )
        made.append((name, cells, (name,)))
    return made


def _lora_t3() -> list:
    e2e = task("e2e", "tuetschek/e2e_nlg", kind="generation", prompt="{{ meaning }}\nText:")
    how = {
        **GREEDY,
        "decoding": {"num_beams": 10, "length_penalty": 0.9, "no_repeat_ngram_size": 4, "do_sample": False},
    }
    more = {"bleu_lowercase": 0.68, "nist": 8.6, "meteor": 0.45, "cider": 2.4, "rouge_l_coco": 0.7}
    cells = [
        cell(
            "openai-community/gpt2-medium",
            method,
            {"e2e": right},
            [e2e],
            rank,
            metric="rouge_l",
            metrics={name: value + 0.01 * right for name, value in more.items()},
            how=how,
            options=options,
            trainable_parameters=size,
            examples=630,
        )
        for method, rank, right, size, options in (
            ("lora", 4, 0.71, 393_216, {"target_modules": ["c_attn.q", "c_attn.v"], "alpha": 32.0, "dropout": 0.1}),
            ("prefix_tuning", 10, 0.69, 349_000, {"reparameterization": "mlp"}),
            ("full", None, 0.70, 354_823_168, {}),
        )
    ]
    return [("e2e", cells, ("e2e",))]


def _lora_t6() -> list:
    mnli = glue("mnli", "choice")
    cells = [
        cell(
            "HuggingFaceTB/SmolLM2-360M",
            "lora",
            {"mnli": 0.7 + 0.01 * rank + 0.02 * len(targets)},
            [mnli],
            rank,
            options={"target_modules": targets},
            cell=f"lora r={rank} {'+'.join(targets)} fp32",
            named_settings="",
            examples=400,
        )
        for rank in (1, 2, 4, 8)
        for targets in (["q_proj"], ["q_proj", "v_proj"])
    ]
    return [("ranks", cells, ("mnli",))]


def _prompted(name: str, dataset: str | None, config: str | None = None) -> dict[str, Any]:
    prompt = _ALPACA + "\n\n### Instruction:\n{{ instruction }}\n\n### Response:"
    return task(name, dataset, config, prompt=prompt)


def _math() -> list:
    names = ("gsm8k", "aqua", "mawps", "svamp")
    tasks = [_prompted(name, None) for name in names]
    trained = {"data": [["math_10k", 1.0]], "loss_on": "all"}
    cells = [
        cell(
            LLAMA,
            method,
            dict(zip(names, rights, strict=True)),
            tasks,
            rank,
            "fp16",
            options=options,
            train=trained,
            how=GREEDY,
        )
        for method, rank, rights, options in (
            ("lora", 32, (0.36, 0.19, 0.78, 0.5), {"alpha": 64.0, "target_modules": ["q_proj", "k_proj"]}),
            ("adapter", 256, (0.33, 0.16, 0.75, 0.49), {"kind": "parallel"}),
            ("prefix_tuning", 10, (0.1, 0.15, 0.4, 0.2), {}),
        )
    ]
    return [("math", cells, names)]


def _commonsense() -> list:
    names = ("boolq", "piqa", "siqa", "hellaswag", "winogrande", "arc_easy", "arc_challenge", "openbookqa")
    tasks = [_prompted(name, None) for name in names]
    cells = [
        cell(
            LLAMA, "lora", {name: right - 0.02 * place for place, name in enumerate(names)}, tasks, 16, "fp16",
            options={"dora": dora}, cell=f"lora r=16{' dora' if dora else ''} fp16", how=GREEDY, examples=100,
        )
        for dora, right in ((False, 0.75), (True, 0.64))
    ]  # fmt: skip
    return [("commonsense", cells, names)]


def _metamath() -> list:
    gsm8k = _prompted("gsm8k", "openai/gsm8k", "main")
    trained = task("metamath", "meta-math/MetaMathQA", kind="generation", splits={"train": "train[:100000]"})
    train = {
        **{"data": [["metamath", 1.0]], "epochs": 1.0, "batch_size": 128, "learning_rate": 2e-5, "schedule": "cosine"},
        **{"warmup_ratio": 0.03, "weight_decay": 0.0, "sequence_length": 512},
    }
    options = {"alpha": 128.0, "target_modules": "all-linear"}
    cells = [
        cell(
            LLAMA2,
            "lora",
            {"gsm8k": right},
            [trained, gsm8k],
            128,
            "fp32",
            options={**options, "initialization": start},
            train=train,
            how=how,
            cell=f"lora r=128 {start} fp32",
            examples=1319,
            data_seen_json=json.dumps({"metamath": {"examples": 100_000}}),
            environment_json=json.dumps({**GPU, "gpus": [{"name": "A800-SXM4-80GB"}]}),
        )
        for start, right, how in (("kaiming", 0.43, {**GREEDY, "max_new_tokens": 1024}), ("pissa", 0.45, GREEDY))
    ]
    return [("metamath", cells, ("gsm8k",))]


def _qlora_t3() -> list:
    glue_mean = task("glue", None, kind="classification")
    cells = [
        cell("FacebookAI/roberta-large", "lora", {"glue": right}, [glue_mean], 16, precision, options=options)
        for right, precision, options in ((0.89, "bf16", {"dropout": 0.0}), (0.88, "int8", {}), (0.885, "fp4", {}))
    ]
    return [("precisions", cells, ("glue",))]


def _qlora_t4() -> list:
    alpaca = task("alpaca", "tatsu-lab/alpaca", kind="generation")
    mmlu = task("mmlu", None, kind="lm_eval", lm_eval="mmlu")
    train = {"data": [["alpaca", 1.0]], "epochs": None, "steps": 1875}
    return [
        (
            f"mmlu-{size}",
            [
                cell(
                    f"huggyllama/llama-{size}b",
                    "lora" if precision == "bf16" else "qlora",
                    {"mmlu": right},
                    [alpaca, mmlu],
                    64,
                    precision,
                    metric="acc",
                    train=train,
                    how={"num_fewshot": 5},
                )
                for precision, right in (("bf16", 0.38), ("nf4", 0.39))
            ],
            ("mmlu",),
        )
        for size in (7, 13)
    ]


def _costs(base: str, cells: tuple[tuple[str, int | None, str, dict[str, Any]], ...]) -> list:
    alpaca = task("alpaca", "tatsu-lab/alpaca", kind="generation")
    made = [
        cell(base, method, {"alpaca": 0.5}, [alpaca], rank, precision, metric="rouge_l", examples=10, **sizes)
        for method, rank, precision, sizes in cells
    ]
    return [("costs", made, ("alpaca",))]


def _qlora_memory() -> list:
    sizes = {"peak_base_weights_bytes": 3_900_000_000, "peak_quantization_state_bytes": 110_000_000}
    sizes |= {"peak_adapter_bytes": 320_000_000, "peak_optimizer_bytes": 640_000_000, "peak_train_bytes": 7_100_000_000}
    return _costs("huggyllama/llama-7b", (("qlora", 64, "nf4", sizes),))


def _lit_llama() -> list:
    sizes = [
        {"peak_train_bytes": size, "train_seconds": seconds}
        for size, seconds in ((21.4e9, 11_000.0), (22.3e9, 9_800.0))
    ]
    whole = [{name: int(value) if "bytes" in name else value for name, value in each.items()} for each in sizes]
    return _costs(LLAMA, (("lora", 8, "bf16", whole[0]), ("llama_adapter", 10, "bf16", whole[1])))


def _litgpt() -> list:
    sizes = {"peak_train_bytes": 4_600_000_000, "train_seconds": 240.0, "best_validation_loss": 1.12}
    return _costs("meta-llama/Llama-3.2-1B", (("lora", 8, "bf16", sizes), ("qlora", 8, "nf4", sizes)))


def _hf() -> list:
    gsm8k = task("gsm8k", None)
    cells = [
        cell(
            "meta-llama/Llama-3.2-3B",
            method,
            {"gsm8k": right},
            [gsm8k],
            rank,
            "bf16",
            seeds=1,
            examples=1319,
            trainable_parameters=size,
            peak_train_reserved_bytes=memory,
            train_seconds=900.0,
            last_loss=0.6,
            options=options,
        )
        for method, rank, right, size, memory, options in (
            ("lora", 32, 0.48, 9_175_040, 22_300_000_000, {"alpha": 64.0}),
            ("full", None, 0.49, 3_212_749_824, 38_600_000_000, {}),
        )
    ]
    return [("hf", cells, ("gsm8k",))]


_MADE = {
    "lora-t2": _lora_t2,
    "lora-t3": _lora_t3,
    "lora-t6": _lora_t6,
    "llm-adapters-math": _math,
    "llm-adapters-commonsense": _commonsense,
    "metamath-gsm8k": _metamath,
    "qlora-t3": _qlora_t3,
    "qlora-t4": _qlora_t4,
    "qlora-memory": _qlora_memory,
    "lit-llama": _lit_llama,
    "litgpt-hub": _litgpt,
    "hf-method-comparison": _hf,
}


GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "published"


def renew() -> None:
    """Write the golden table of each layout: ``python -m tests.support.published_results``."""
    from peftbench.report import published
    from peftbench.report.published import load

    for name in load.layouts():
        with tempfile.TemporaryDirectory() as scratch:
            text = published.text(folders(Path(scratch), name), name, "md", with_published=True)
        (GOLDEN / f"{name}.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    argparse.ArgumentParser(description="Write the golden tables of layouts again.").parse_args()
    renew()
