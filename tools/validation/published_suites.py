"""Plan the suites of published tables at full size: ``python -m tools.validation.published_suites --write``.

The training peak of every cell is predicted for a CUDA device from the config of the suite's base model, which comes
with peftbench as a shape; nothing is downloaded. Results are written to ``results/reference/published_suites.json``,
from which ``tools/docs/reference.py`` renews ``docs/published_suites.md``.
"""

from __future__ import annotations

import argparse
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

from peftbench import suite
from peftbench.errors import Unsupported
from peftbench.models import builtin
from peftbench.planner.predict import predict
from peftbench.planner.records import Unplannable
from peftbench.records import Trial

PATH = Path(__file__).resolve().parents[2] / "results" / "reference" / "published_suites.json"
SHAPES = {
    "meta-llama/Llama-2-7b-hf": "llama-7b",
    "huggyllama/llama-7b": "llama-7b",
    "yahma/llama-7b-hf": "llama-7b",
    "meta-llama/Llama-3.2-3B": "llama-3.2-3b",
    "meta-llama/Llama-3.2-1B-Instruct": "llama-3.2-1b",
    "openai-community/gpt2-medium": "gpt2-medium",
    "FacebookAI/roberta-base": "roberta-base",
}
"""Base model of a suite -> the shape that comes with peftbench and has its layers. LLaMA and LLaMA-2 of 7B differ in
the length of the context alone."""
PREFIXES = ("paper_", "hf_", "lora_without_regret")
"""How the names of these suites begin."""
PLACES = {"LLM_ADAPTERS": "LLM-Adapters"}
"""The environment variables that these suites read."""


def names() -> list[str]:
    """Return the suites of published tables."""
    return [name for name in suite.names() if name.startswith(PREFIXES)]


def cells(name: str) -> dict[str, list[Trial]]:
    """Return the trials of a suite by cell, at full size on a CUDA device."""
    found: dict[str, list[Trial]] = {}
    for trial in suite.expand(suite.load(name, environ=PLACES), "cuda"):
        if trial.training is not None:
            found.setdefault(trial.cell, []).append(trial)
    return found


def planned(trial: Trial) -> dict[str, Any]:
    """Return the predicted peak of a trial's training step in bytes, or why there is none."""
    try:
        found = predict(trial, builtin.shape(SHAPES[trial.base.source]))
    except (Unsupported, Unplannable) as error:
        return {"peak_bytes": None, "reason": str(error)}
    return {"peak_bytes": found.peak_bytes, "trainable_parameters": found.trainable_parameters}


def plan(name: str) -> dict[str, Any]:
    """Return what a suite costs: its cells, each with its number of trials and its predicted peak."""
    found = cells(name)
    first = next(iter(found.values()))[0]
    return {
        "base": first.base.source,
        "shape": SHAPES[first.base.source],
        "cells": {cell: {"trials": len(each), **planned(each[0])} for cell, each in found.items()},
    }


def markdown() -> str:
    """Return the table of the suites: trials, and the smallest and the largest predicted peak."""
    record = json.loads(PATH.read_text())
    lines = [
        "| suite | base model | cells | trials | smallest training peak | largest training peak |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for name, found in record["suites"].items():
        known = {cell: each["peak_bytes"] for cell, each in found["cells"].items() if each["peak_bytes"] is not None}
        ordered = sorted(known, key=known.__getitem__)
        ends = [f"{known[cell] / 2**30:.1f} GiB ({cell})" for cell in (ordered[0], ordered[-1])]
        trials = sum(each["trials"] for each in found["cells"].values())
        lines.append(f"| `{name}` | {found['base']} | {len(found['cells'])} | {trials} | {' | '.join(ends)} |")
    return "\n".join(lines)


def main() -> None:
    """Plan each suite; print the peaks, and with ``--write`` record them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("suites", nargs="*", metavar="SUITE", help="plan these only; default: all")
    parser.add_argument("--write", action="store_true", help=f"write {PATH.name}")
    asked = parser.parse_args()
    found = {} if not asked.suites else json.loads(PATH.read_text())["suites"]
    for name in asked.suites or names():
        found[name] = plan(name)
        for cell, each in found[name]["cells"].items():
            peak = each["peak_bytes"]
            print(name, cell, each["reason"] if peak is None else f"{peak / 2**30:.2f} GiB", sep="  ", flush=True)
    if asked.write:
        libraries = {library: version(library) for library in ("torch", "transformers", "peft", "bitsandbytes")}
        PATH.write_text(json.dumps({"versions": libraries, "suites": dict(sorted(found.items()))}, indent=1) + "\n")


if __name__ == "__main__":
    main()
