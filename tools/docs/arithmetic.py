"""The tables of docs/memory_arithmetic.md: the textbook's figures beside the planner's."""

from __future__ import annotations

import tempfile
from pathlib import Path

from peftbench import suite
from peftbench.models import builtin
from peftbench.planner import cuda_reserve
from peftbench.planner.predict import predict
from tools.docs.textbook import BYTES, estimate

SUITE = """
base: {{shape: {shape}}}
tasks: [compute]
device: cpu
seeds: 1
train: {{batch_size: 1, sequence_length: 512}}
methods: {{{method}: {settings}}}
"""
CASES = {
    "LLaMA-7B, full fine-tuning in 32 bits": (7e9, "fp32", None, ("llama-7b", "full", "{precision: fp32}")),
    "LLaMA-6B, everything in 8 bits": (6e9, "int8", None, None),
    "LLaMA-65B, full fine-tuning in 16 bits with 32-bit moments": (65e9, "mixed", None, None),
    "LLaMA-65B, full fine-tuning, all in bf16": (None, None, None, ("llama-65b", "full", "{precision: bf16-true}")),
    "LLaMA-65B, LoRA r=64 on all linear layers of a 4-bit base, checkpointing": (
        65e9,
        "nf4",
        0.8e9,
        ("llama-65b", "qlora", "{rank: 64, gradient_checkpointing: true}"),
    ),
}
"""Name to the textbook's parameters, precision and trainable parameters, and the planner's shape, method, settings."""


def bytes_per_parameter() -> str:
    """Return the table of bytes per parameter."""
    rows = [
        f"| {word} | {each.weights:g} | {each.gradients:g} | {each.optimizer:g} | {each.doc} |"
        for word, each in BYTES.items()
    ]
    head = ["| word | weights | gradients | AdamW | what |", "|---|---:|---:|---:|---|"]
    return "\n".join([*head, *rows])


def cases() -> str:
    """Return the table of whole models."""
    lines = ["| model | textbook, GB | sum, GB | planner, GB | sum, GB |", "|---|---|---:|---|---:|"]
    for name, (parameters, word, trainable, planned) in CASES.items():
        textbook = ["–", "–"]
        if parameters is not None:
            estimated = estimate(parameters, word, trainable)
            parts = (estimated.weights, estimated.gradients, estimated.optimizer)
            textbook = [" + ".join(f"{part / 1e9:.3g}" for part in parts), f"{estimated.total / 1e9:.3g}"]
        lines.append(f"| {name} | {' | '.join([*textbook, *_planned(planned)])} |")
    return "\n".join(lines)


def beside() -> str:
    """Return the table of the memory that a CUDA device holds besides tensors."""
    rows = [f"| {part.name} | {part.size / 1e6:,.0f} | {part.doc} | {part.source} |" for part in cuda_reserve.EVERY]
    return "\n".join(["| what | MB | why | source |", "|---|---:|---|---|", *rows])


def _planned(case: tuple[str, str, str] | None) -> list[str]:
    if case is None:
        return ["–", "–"]
    shape, method, settings = case
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "case.yaml"
        path.write_text(SUITE.format(shape=shape, method=method, settings=settings))
        (trial,) = suite.expand(suite.load(path), "cpu")
    found = predict(trial, builtin.shape(shape))
    shown = {k.replace("_", " "): v / 1e9 for k, v in found.categories.items()}
    parts = ", ".join(f"{name} {value:.2f}" for name, value in shown.items() if value >= 0.005)
    return [parts, f"{found.peak_bytes / 1e9:.2f}"]
