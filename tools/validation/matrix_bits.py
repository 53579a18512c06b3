"""What 4 bits leave: bits per weight of thirteen families in nf4, and the share of their matrices that LoRA adapts."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

STORAGES = ("fp32", "nf4")


def measured(family: str) -> dict[str, float]:
    """Make the base model of a family of ``tests/support/architectures.py`` and measure it."""
    from tests.support import architectures

    with tempfile.TemporaryDirectory() as scratch:
        return measures(architectures.make(Path(scratch), family))


def measures(home: Path) -> dict[str, float]:
    """Measure a base model: bits per weight in nf4, and the share of its matrices that all-linear adapts."""
    from peftbench.methods import adapted_share, lora
    from peftbench.models import load
    from tests.support import trials
    from tests.support.method_cells import loaded

    found = loaded(home, "lora", "nf4")
    packed = [p for p in found.model.parameters() if getattr(p, "quant_state", None) is not None]
    count = sum(map(load.parameter_count, packed))
    state = sum(t.numel() * t.element_size() for t in load.quantization_tensors(found.model))
    codes = sum(p.numel() * p.element_size() for p in packed)
    shares = {}
    for storage in STORAGES:
        base = loaded(home, "lora", storage).model
        matrices = load.matrices(base)
        tuned = lora.attach(base, 4, trials.trial(home, home, "lora", storage).options)
        shares[f"all_linear_share_{storage}"] = adapted_share.columns(matrices, tuned).adapted_share
    return {
        "quantized_share": count / found.parameters,
        "codes_bits": 8 * codes / count,
        "quantized_bits": 8 * (codes + state) / count,
        "base_bits": 8 * found.weights_bytes / found.parameters,
        **shares,
    }


def table(measured: Mapping[str, Mapping[str, float]]) -> str:
    """Return the bits per weight of each family in nf4, and the share that all-linear adapts in fp32 and nf4."""
    lines = [
        "| family | quantized | bits of codes | with scales and tables | whole base | all-linear in fp32 | in nf4 |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for family, row in measured.items():
        shown = [f"{100 * v:.1f} %" if k.partition("_share")[1] else f"{v:.2f}" for k, v in row.items()]
        lines.append(f"| {family} | {' | '.join(shown)} |")
    return "\n".join(lines)
