"""Damaged and invented results of other benchmarks."""

from __future__ import annotations

import copy
import json
import random
import shutil
from functools import cache
from pathlib import Path
from typing import Any

from tools.validation.fuzz.suites import ODD

ROOT = Path(__file__).resolve().parents[3]
_ODD = (
    *(v for v in ODD if v != 10**400),
    "2026-13-45T99:99",
    "1e999",
    [[]] * 3,
    {"a": [None]},
    "../../x",
    "<b>",
    "=1+1",
)
HF: dict[str, Any] = {
    "run_info": {
        "created_at": "2026-01-02T03:04:05+00:00",
        "total_time": 90.5,
        "experiment_name": "lora/llama-rank32",
        "peft_branch": "main",
        "train_config": {
            "model_id": "meta/tiny",
            "dtype": "bfloat16",
            "max_seq_length": 768,
            "batch_size": 4,
            "max_steps": 20,
            "optimizer_type": "AdamW",
            "optimizer_kwargs": {"lr": 0.0001},
            "lr_scheduler": "cosine",
            "query_template": "Question: {query} Answer:",
            "generation_kwargs": {"max_new_tokens": 300},
            "autocast_adapter_dtype": True,
        },
        "peft_config": {"peft_type": "LORA", "r": 32, "lora_alpha": 64, "target_modules": ["q_proj", "v_proj"]},
        "error_msg": "",
    },
    "train_info": {
        "accelerator_memory_reserved_avg": 123.0,
        "accelerator_memory_max": 456,
        "train_time": 80.25,
        "file_size": 1234,
        "num_trainable_params": 99,
        "num_total_params": 999,
        "status": "success",
        "metrics": [
            {
                "step": 10 * n,
                "valid accuracy": 0.25,
                "train loss": 1.5,
                "train samples": 40 * n,
                "train time": 3.5,
                "eval time": 1.5,
                "tokens / sec": 900.0,
                "train total tokens": 9000 * n,
                "test accuracy": 0.5,
            }
            for n in (1, 2)
        ],
    },
    "meta_info": {
        "model_info": {"sha": "abc"},
        "dataset_info": {"metamath": {"sha": "a"}, "gsm8k": {"sha": "b"}},
        "package_info": {"peft-version": "0.21", "peft-commit-hash": "c", "torch-version": "2.11"},
        "system_info": {"system": "Linux", "release": "6", "accelerator": "NVIDIA L40S"},
    },
}
"""A result file of method_comparison."""
_TABLE = ("created_at", "experiment_name", "train_config", "peft_config", "accelerator_memory_max", "test_accuracy")


@cache
def harness() -> Path:
    """Return a folder of results of lm-eval."""
    return ROOT / "tests" / "golden" / "lm_eval"


def import_input(place: Path, draw: random.Random) -> list[str]:
    """Write results of another benchmark, damaged, and return the command that imports them."""
    if draw.random() < 0.5:
        source, folder = "hf-method-comparison", place / "night"
        folder.mkdir()
        for number in range(draw.choice((1, 2, 3))):
            found = copy.deepcopy(HF)
            found["run_info"]["experiment_name"] += str(number)
            (folder / f"r{number}.json").write_text(json.dumps(found))
        if draw.random() < 0.15:
            rows = [",".join(_TABLE), *(",".join(draw.choice(("", "x", "1", "{}", '"')) for _ in _TABLE) for _ in "ab")]
            (folder / "t.csv").write_text("\n".join(rows))
    else:
        source, folder = "lm-eval", place / "night"
        shutil.copytree(harness() / draw.choice(("whole", "scores_alone")), folder)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for _ in range(draw.choice((1, 1, 2))):
        damage(draw.choice(files), draw)
    given = draw.choice(([folder], [folder], [draw.choice(files)], [folder, draw.choice(files)]))
    return ["import", source, *map(str, given), "-o", "out"]


def damage(path: Path, draw: random.Random) -> None:
    """Change one value or a few bytes of a JSON file."""
    text = path.read_text(errors="surrogateescape")
    if draw.random() < 0.75:
        try:
            lines = [json.loads(text)] if path.suffix == ".json" else [json.loads(line) for line in text.splitlines()]
        except ValueError:  # damaged already
            lines = []
        for _ in range(draw.choice((1, 1, 3)) if lines else 0):
            _change(lines, draw)
        if lines:
            path.write_text("\n".join(map(json.dumps, lines)))
            return
    content = path.read_bytes()
    at = draw.randrange(len(content) + 1)
    some = draw.choice((b"", b"\x00", b"\xff", b"[" * 99_999, b"9" * 5000, b"NaN", b'"', b"}", b"\xed\xa0\x80"))
    path.write_bytes(content[:at] + some + content[at + draw.choice((0, 1, 30, 10**6)) :])


def _change(data: Any, draw: random.Random) -> None:
    """Change a value somewhere in JSON."""
    holder = data
    while True:
        keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
        if not keys:
            return
        key = draw.choice(keys)
        if isinstance(holder[key], dict | list) and holder[key] and draw.random() < 0.8:
            holder = holder[key]
            continue
        break
    if draw.random() < 0.2 and isinstance(holder, dict):
        del holder[key]
    elif draw.random() < 0.1 and isinstance(holder, dict):
        holder[draw.choice(("new", "", "metrics", "results"))] = copy.deepcopy(draw.choice(_ODD))
    else:
        holder[key] = copy.deepcopy(draw.choice(_ODD))
