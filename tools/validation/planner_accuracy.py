"""Compare predicted with measured peak memory: ``python -m tools.validation.planner_accuracy [--sizes NAME ...]``.

For every method and precision on the CPU, three model sizes, with and without gradient checkpointing, and two batch
shapes, the planner's predicted peak is compared with the one that ``accounting.account_step`` counts in a real training
step. Results are written to ``results/reference/planner.json``, from which ``tools/docs/reference.py`` renews
``docs/planner.md``.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from peftbench.methods import METHODS, method_of
from peftbench.methods.support import why_unsupported
from peftbench.models import builtin, load
from peftbench.models.precision import PRECISIONS, effective
from peftbench.planner.predict import predict
from peftbench.planner.records import Pass, Prediction
from peftbench.records import Trial
from peftbench.records.resolve import resolve
from peftbench.training import accounting, batches, loop, packing
from tests.support import trials

PATH = Path(__file__).resolve().parents[2] / "results" / "reference" / "planner.json"
LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes")
SIZES: dict[str, dict[str, Any]] = {
    "nano": {},
    "25M": {"vocab_size": 4096, "hidden_size": 512, "intermediate_size": 1376, "num_hidden_layers": 7},
    "100M": {"vocab_size": 16000, "hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12},
}
"""Name -> config of a Llama with random weights; ``nano`` is the built-in base model."""
PASSES = {
    "nano": (Pass(4, 32), Pass(8, 96, padded=False)),
    "25M": (Pass(2, 32), Pass(4, 64, padded=False)),
    "100M": (Pass(1, 32, padded=False), Pass(2, 64)),
}


@dataclasses.dataclass(frozen=True)
class Cell:
    """One comparison."""

    size: str
    method: str
    precision: str
    checkpointing: bool
    examples: int
    tokens: int
    predicted: int
    accounted: int

    @property
    def error(self) -> float:
        """Relative error of the predicted peak."""
        return self.predicted / self.accounted - 1

    @property
    def name(self) -> str:
        """A description of the cell."""
        checkpointing = " with checkpointing" if self.checkpointing else ""
        return f"{self.method} {self.precision}{checkpointing} at {self.size}, {self.examples} x {self.tokens} tokens"


def base(size: str, folder: Path, sizes: Mapping[str, Mapping[str, Any]] = SIZES) -> Path:
    """Return the folder of the model of a size; models other than the built-in one are created.

    Args:
        size: a key of ``sizes``.
        folder: where models are created.
        sizes: name -> config of a Llama with random weights, or of a Mixtral if it has experts.
    """
    if size == "nano":
        return builtin.folder("nano")
    import transformers

    from tests.support import tiny_base

    made = folder / size
    if not made.exists():
        torch.manual_seed(0)
        shape = {"num_attention_heads": 8, "max_position_embeddings": 256, "tie_word_embeddings": True}
        tiny_base.tokenizer().save_pretrained(made)
        kind = "Mixtral" if "num_local_experts" in sizes[size] else "Llama"
        config = getattr(transformers, f"{kind}Config")(**shape, **sizes[size])
        getattr(transformers, f"{kind}ForCausalLM")(config).save_pretrained(made)
    return made


def settings() -> Iterator[tuple[str, str, bool]]:
    """Yield every combination of method, precision and gradient checkpointing that exists on the CPU.

    ``stored`` is that of a base whose files are quantized, which the bases here are not. Precisions of optional
    packages are left out: ``tests/models/test_torchao_precisions.py`` compares those.
    """
    for method in METHODS.values():
        for precision in (name for name, p in PRECISIONS.items() if name != "stored" and not p.package):
            if method.trains and why_unsupported(method, precision, "cpu") is None and method.name != "peft":
                yield method.name, precision, False
                if not method.why_no_checkpointing:
                    yield method.name, precision, True


def account(trial: Trial, folder: Path, shapes: Sequence[Pass]) -> tuple[load.Loaded, Any]:
    """Return a real base model and the memory counts of a trial's second training step, as in ``trial.run``."""
    method, precision = method_of(trial.method, trial.options), effective(trial.precision, trial.options)
    double = trial.options.get("double_quantization", True)
    where = {"device": "cpu", "trust_remote_code": False, "attention": trial.training.attention}
    loaded = load.load(folder, precision, method.trains_base, double, **where)
    tuned = resolve(method.attach)(loaded.model, trial.rank, trial.options)
    parameters = load.cast_trainable(tuned, precision)
    learner = loop.learner(
        tuned, parameters, trial.training, precision=precision, device="cpu", pad_id=1, virtual_tokens=0
    )
    tuned.train()
    loop.step(learner, [batches.collate(examples([Pass(1, 8)]), 1)], 1e-4)
    return loaded, accounting.account_steps(learner, [examples(shapes)], method.trains_base)


def examples(shapes: Sequence[Pass]) -> list[batches.Encoded]:
    """Return examples whose batches have the given shapes."""
    lengths = [s.tokens - 3 * (s.padded and index > 0) for s in shapes for index in range(s.examples)]
    return [batches.Encoded((5,) * length, 2, False, ("x", index)) for index, length in enumerate(lengths)]


def _bearing(shape: Pass) -> int:
    """Return the tokens in the loss of the examples of a shape; it is read only if logits are made for these alone."""
    return packing.bearing([[e] for e in examples([shape])])


def compare(folder: Path, method: str, precision: str, shapes: Sequence[Pass], **changes: Any) -> tuple[Any, ...]:
    """Return the prediction, the real base model and the real memory counts of a trial changed by ``changes``."""
    training = {"batch_size": sum(s.examples for s in shapes), "micro_batch_size": shapes[0].examples}
    training |= changes.pop("training", {})
    trial = trials.trial(folder, Path(tempfile.gettempdir()) / "tasks", method, precision, training=training, **changes)
    found: Prediction = predict(trial, folder, [dataclasses.replace(s, bearing=_bearing(s)) for s in shapes])
    return (found, *account(trial, folder, shapes))


def cells(sizes: Sequence[str], folder: Path) -> Iterator[Cell]:
    """Yield all comparisons of the given sizes."""
    for size in sizes:
        for method, precision, checkpointing in settings():
            for shape in PASSES[size]:
                found, _, accounted = compare(
                    base(size, folder), method, precision, [shape], training={"gradient_checkpointing": checkpointing}
                )
                where = (size, method, precision, checkpointing, shape.examples, shape.tokens)
                yield Cell(*where, found.peak_bytes, accounted.peak_bytes)


def stored() -> list[Cell]:
    """Return the committed comparisons."""
    return [Cell(**cell) for cell in json.loads(PATH.read_text())["cells"]]


def summary() -> str:
    """Return a sentence on the errors of the committed predictions."""
    found = stored()
    worst = max(found, key=lambda cell: abs(cell.error))
    exact = sum(cell.error == 0 for cell in found)
    median = statistics.median(abs(cell.error) for cell in found)
    libraries = ", ".join(f"{k} {v}" for k, v in json.loads(PATH.read_text())["libraries"].items())
    if exact == len(found):
        return f"All {len(found)} cells are equal to the byte. With {libraries}."
    return (
        f"{len(found)} cells, of which {exact} are equal to the byte; the median error is {median:.4%}; the largest is "
        f"{worst.error:+.4%}, {worst.name}. With {libraries}."
    )


def table() -> str:
    """Return a table of the larger batch's peaks without checkpointing, and of the largest errors."""
    found = stored()
    lines = [
        "| method | precision | " + " | ".join(f"{size}, MiB" for size in SIZES) + " | cells | largest error |",
        "|---|---|" + "---:|" * (len(SIZES) + 2),
    ]
    for method, precision in dict.fromkeys((c.method, c.precision) for c in found):
        own = [c for c in found if (c.method, c.precision) == (method, precision)]
        shown = [_peaks([c for c in own if c.size == size and not c.checkpointing]) for size in SIZES]
        worst = max((c.error for c in own), key=abs)
        lines.append(f"| {method} | {precision} | {' | '.join(shown)} | {len(own)} | {worst:+.3%} |")
    return "\n".join(lines)


def _peaks(found: Sequence[Cell]) -> str:
    if not found:
        return "–"
    cell = max(found, key=lambda c: c.accounted)
    return f"{cell.predicted / 2**20:.2f} / {cell.accounted / 2**20:.2f}"


def main() -> None:
    """Compare the given sizes again, and keep the other results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), choices=SIZES)
    sizes = parser.parse_args().sizes
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        made = []
        for cell in cells(sizes, Path(folder)):
            print(f"{cell.error:+.4%} {cell.name}", flush=True)
            made.append(cell)
    kept = [cell for cell in stored() if cell.size not in sizes] if PATH.is_file() else []
    order = list(SIZES)
    rows = sorted(kept + made, key=lambda cell: order.index(cell.size))
    found = {"libraries": {name: version(name) for name in LIBRARIES}, "cells": [dataclasses.asdict(c) for c in rows]}
    PATH.write_text(json.dumps(found, indent=None).replace('{"size"', '\n{"size"') + "\n")


if __name__ == "__main__":
    main()
