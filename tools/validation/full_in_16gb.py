"""Which optimizers bring full fine-tuning under 16 GB: ``python -m tools.validation.full_in_16gb``.

The peak of a training step is predicted as ``peftbench plan --memory`` predicts it, for published shapes, both
precisions of full fine-tuning in 16 bits, each optimizer, and layers that train in turns. Results are written to
``results/reference/full_in_16gb.json``, from which ``tools/docs/reference.py`` renews ``docs/optimizers.md``.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from peftbench import suite
from peftbench.records import OPTIMIZERS, Trial

PATH = Path(__file__).resolve().parents[2] / "results" / "reference" / "full_in_16gb.json"
SHAPES = ("llama-3.2-1b", "llama-7b")
PRECISIONS = ("bf16-true", "bf16")
LIMIT = 16 * 10**9
CONTEXT = 10**9
"""Bytes below the limit that are left to the context of CUDA and to fragments."""
TOKENS = 512
PARTS = ("base_weights", "gradients", "optimizer")
"""Categories of the ledger that are told apart."""
NAMES = tuple(name for name in OPTIMIZERS if name != "paged_adamw")
"""Its state is AdamW's in fp32, of which a card holds what the driver leaves there."""
_SUITE = """
base: {{shape: {shape}}}
tasks: [compute]
seeds: 1
device: cpu
train: {{steps: 1, learning_rate: 1.0e-5, batch_size: 1, sequence_length: {tokens}, gradient_checkpointing: true,
  clip_norm: null, schedule: constant}}
methods: {{full: [{{precision: [{precisions}], optimizer: [{optimizers}]}},
  {{precision: [{precisions}], optimizer: adamw, turns: [{turns}]}},
  {{precision: [{precisions}], optimizer: adamw, offload: [{offloads}]}}]}}
"""
TURNS = ("lisa", "badam")
"""Ways by which layers train in turns, each with AdamW and its default sizes."""
OFFLOADS = ("optimizer", "all")
"""What is kept on the host, each with AdamW; a CPU runs no such trial, but its tensors are the same."""


def trials(shape: str) -> Sequence[Trial]:
    """Return a trial for each precision and optimizer, or kind of turns."""
    lists = {"precisions": ", ".join(PRECISIONS), "optimizers": ", ".join(NAMES), "turns": ", ".join(TURNS)}
    lists["offloads"] = ", ".join(OFFLOADS)
    text = _SUITE.format(shape=shape, tokens=TOKENS, **lists)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "full_in_16gb.yaml"
        path.write_text(text)
        return suite.expand(suite.load(path), "cpu")


def name(trial: Trial) -> str:
    """Return a trial's optimizer, with the turns of its layers if they have any, and what is on the host."""
    assert trial.training is not None
    more = {"turns": trial.options["turns"], "offload": trial.training.offload}
    return trial.training.optimizer + "".join(f", {key}: {value}" for key, value in more.items() if value != "none")


def rows() -> Iterator[Mapping[str, Any]]:
    """Yield the predicted peak of each trial with its parts, in bytes."""
    from transformers import AutoConfig

    from peftbench.models import builtin
    from peftbench.planner.predict import predict

    for shape in SHAPES:
        config = AutoConfig.from_pretrained(builtin.shape(shape))
        for trial in trials(shape):
            found = predict(trial, config)
            assert trial.training is not None
            parts = {name: found.categories[name] for name in PARTS}
            yield {
                "shape": shape,
                "precision": trial.precision,
                "optimizer": name(trial),
                "peak": found.peak_bytes,
                "parameters": found.base_parameters,
                "host": found.offloaded_bytes,
                "parts": parts,
            }
            print(shape, trial.precision, name(trial), f"{found.peak_bytes / 1e9:.2f} GB", flush=True)


def stored() -> list[dict[str, Any]]:
    """Return the committed predictions."""
    return json.loads(PATH.read_text())["rows"]


def main() -> None:
    """Predict everything again."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    found = list(rows())
    PATH.write_text(json.dumps({"rows": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
