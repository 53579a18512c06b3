"""Every method on every family of models: ``python -m tools.validation.matrix [--family NAME ...]`` runs all cells.

A cell trains a tiny base model of the family for two steps, generates, saves, loads and compares. The outcomes are
written to ``results/reference/architectures.json``, from which ``tools/docs/reference.py`` makes
``docs/architectures.md``.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections import Counter
from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

from peftbench.errors import Unsupported
from peftbench.methods import METHODS
from peftbench.methods.support import why_unsupported
from peftbench.models.precision import PRECISIONS
from peftbench.records.resolve import resolve

STORED = Path(__file__).resolve().parents[2] / "results" / "reference" / "architectures.json"
NAMES = tuple(n for n, m in METHODS.items() if m.trains and not m.variants and m.attach.startswith("peftbench."))
"""The methods of peftbench, without ``peft``, which stands for many tuners."""
STORAGES = ("fp32", "nf4")
PACKAGES = ("torch", "transformers", "peft", "bitsandbytes")
CLOSE = {"fp32": (1e-5, 1e-3), "nf4": (2e-2, 1e-3)}
"""Absolute and relative tolerance of the logits after saving and loading."""


@dataclass(frozen=True)
class Outcome:
    """How a cell ended."""

    status: str
    """``ok``, ``unsupported`` (the cell cannot exist, with the reason) or ``failed`` (it should have succeeded)."""
    reason: str | None = None


class Broken(Exception):
    """A check that failed."""


def outcome(home: Path, name: str, storage: str, folder: Path) -> Outcome:
    """Run one cell on the base model in ``home``, in a folder of its own, and return its outcome."""
    because = why_unsupported(METHODS[name], storage, "cpu")
    if because is not None:
        return Outcome("unsupported", because)
    try:
        _run(home, name, storage, folder)
    except Unsupported as error:
        return Outcome("unsupported", str(error))
    except Exception as error:
        return Outcome("failed", f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
    return Outcome("ok")


def _run(home: Path, name: str, storage: str, folder: Path) -> None:
    """Train two steps, generate, save and load; raise if a check fails."""
    import torch

    from peftbench.measure.clock import Clock
    from peftbench.models import load
    from peftbench.training import loop
    from tests.support.method_cells import IDS, attached, loaded, logits

    torch.set_num_threads(1)
    start = logits(loaded(home, name, storage).model, storage, IDS)
    base, learner, plan = attached(home, name, storage, folder)
    tuned = learner.model
    logits(tuned, storage, IDS)  # a pass without gradients must leave no state behind
    before = {n: load.checksum(p) for n, p in tuned.named_parameters()}
    trains = {n for n, p in tuned.named_parameters() if p.requires_grad}
    loop.train(learner, plan[:2], [], Clock(), lambda *_: None)
    moved = {n for n, p in tuned.named_parameters() if load.checksum(p) != before[n]}
    _see(not trains - moved, f"training did not change {_some(trains - moved)}")
    _see(not moved - trains, f"training changed frozen {_some(moved - trains)}")
    expected = logits(tuned, storage, IDS)
    _see(not torch.equal(expected, start), "the logits are the base's")
    _see(bool(torch.isfinite(expected).all()), "logits are not finite")
    _generate(tuned, base.tokenizer, storage, folder)
    method = METHODS[name]
    resolve(method.save)(tuned, folder / "saved")
    again = resolve(method.load)(loaded(home, name, storage).model, folder / "saved")
    found, (absolute, relative) = logits(again, storage, IDS), CLOSE[storage]
    gap = float((found - expected).abs().max())
    _see(torch.allclose(found, expected, relative, absolute), f"loaded again, logits differ by up to {gap:.2g}")


def _generate(tuned: Any, tokenizer: Any, storage: str, folder: Path) -> None:
    """Answer prompts as in evaluation; in fp32, check that batch size and cache do not change answers."""
    import torch

    from peftbench.evaluation import scoring
    from peftbench.tasks import read
    from tests.support import trials
    from tests.support.method_cells import logits

    task = trials.tasks(folder)[2]
    prompts, answers = read.examples(task, "train")[:6], []
    for size in (1, 4):
        wrapped = scoring.Harness(tuned, tokenizer, trials.Evaluation(size, 48, "test"), PRECISIONS[storage])
        answers.append([s["resps"][0][0] for s in scoring.run_harness(wrapped, task, prompts)[0]])
    if storage != "fp32":  # in 16 bits, rounding decides between tokens of nearly equal probability
        return
    _see(answers[0] == answers[1], "answers depend on the batch size")
    for prompt, answer in list(zip(prompts, answers[0], strict=True))[:2]:
        ids = tokenizer.encode(prompt.prompt)
        start = len(ids)
        while len(ids) - start < task.max_new_tokens and ids[-1] != tokenizer.eos_token_id:
            ids.append(int(logits(tuned, storage, torch.tensor([ids]))[0, -1].argmax()))
        direct = tokenizer.decode(ids[start:], skip_special_tokens=True).partition("\n")[0]
        _see(answer == direct, f"with a cache the answer is {answer!r}, without {direct!r}")


def _see(holds: bool, otherwise: str) -> None:
    if not holds:
        raise Broken(otherwise)


def _some(names: set[str]) -> str:
    return f"{len(names)} tensors, such as {min(names, default='')}"


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


# contents of the document


def stored() -> dict[str, Any]:
    """Return the committed outcomes."""
    return json.loads(STORED.read_text())


def table(storage: str) -> str:
    """Return the matrix of one precision in Markdown; numbers refer to the list of reasons."""
    found, numbers = stored()["cells"], _reasons()
    lines = [f"| family | {' | '.join(NAMES)} |", f"|---|{'---|' * len(NAMES)}"]
    for family, row in found.items():
        ends = [row[storage][name] for name in NAMES]
        shown = [c["status"] + (f" [{numbers[c['reason']]}]" if c["reason"] else "") for c in ends]
        lines.append(f"| {' | '.join([family, *shown])} |")
    return "\n".join(lines)


def reasons() -> str:
    """Return the numbered reasons."""
    return "\n".join(f"{number}. {reason}." for reason, number in _reasons().items()) or "None."


def _reasons() -> dict[str, int]:
    given = (c["reason"] for row in stored()["cells"].values() for s in STORAGES for c in row[s].values())
    return {reason: number for number, reason in enumerate(dict.fromkeys(filter(None, given)), 1)}


def counts() -> str:
    """Return the number of cells by status, and the versions of the packages."""
    found = stored()
    parts = []
    for storage in STORAGES:
        ends = Counter(c["status"] for row in found["cells"].values() for c in row[storage].values())
        parts.append(f"{storage}: " + ", ".join(f"{n} {status}" for status, n in sorted(ends.items())))
    made = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
    return f"{'; '.join(parts)}. Run on {found['device']} with {made}."


def bits() -> str:
    """Return the bits per weight of each family in nf4, and the share that all-linear adapts in fp32 and nf4."""
    lines = [
        "| family | quantized | bits of codes | with scales and tables | whole base | all-linear in fp32 | in nf4 |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for family, row in stored()["measures"].items():
        shown = [f"{100 * v:.1f} %" if k.partition("_share")[1] else f"{v:.2f}" for k, v in row.items()]
        lines.append(f"| {family} | {' | '.join(shown)} |")
    return "\n".join(lines)


def main() -> None:
    """Run the cells and write the outcomes; with ``--family``, only those families are run again."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    from tests.support import architectures

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", nargs="+", choices=list(architectures.CONFIGS), help="run only these families")
    wanted = parser.parse_args().family or list(architectures.CONFIGS)
    result = stored() if STORED.exists() else {"cells": {}, "measures": {}}
    for family in wanted:
        row: dict[str, dict[str, Any]] = {storage: {} for storage in STORAGES}
        with tempfile.TemporaryDirectory() as scratch:
            home = architectures.make(Path(scratch) / "base", family)
            for storage, name in product(STORAGES, NAMES):
                row[storage][name] = asdict(outcome(home, name, storage, Path(scratch) / f"{name}-{storage}"))
                print(family, storage, name, *row[storage][name].values(), flush=True)
            result["cells"][family], result["measures"][family] = row, measures(home)
    for part in ("cells", "measures"):
        result[part] = {family: result[part][family] for family in architectures.CONFIGS if family in result[part]}
    result |= {"device": "cpu", "versions": {name: version(name).partition("+")[0] for name in PACKAGES}}
    STORED.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
