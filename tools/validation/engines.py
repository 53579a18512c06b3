"""Compare the scores of another engine with those of transformers: ``python -m tools.validation.engines``.

The environment variable ``PEFTBENCH_VLLM_PYTHON`` names the Python of the engine. Every cell is trained on the built-in
base model and scored by both engines in the same forms. The result is ``results/reference/engines.json``, from which
``tools/docs/engines_document.py`` makes a part of ``docs/engines.md``. It takes a quarter of an hour.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RESULT = ROOT / "results" / "reference" / "engines.json"
ENGINE = "vllm"
FORMS = ("adapter", "merged", "merged_dequantized", "as_lora_8")
SUITE = f"""
base: nano
tasks: [describe, compute, judge]
seeds: 1
threads: 1
train: {{steps: 150, batch_size: 16, sequence_length: 64}}
evaluate:
  inference: false
  retention: false
  deployed: [{", ".join((*FORMS, *(f"{ENGINE}_{form}" for form in FORMS)))}]
methods:
  full: {{precision: [fp32, bf16]}}
  lora:
    - {{rank: 8, precision: [fp32, bf16], learning_rate: 3e-3}}
    - {{rank: 8, precision: fp32, learning_rate: 3e-3, rslora: true}}
    - {{rank: 4, precision: fp32, learning_rate: 3e-3, initialization: pissa}}
    - {{rank: 8, precision: fp32, learning_rate: 3e-3, dora: true}}
  qlora: {{rank: 8, precision: nf4, learning_rate: 3e-3}}
  prefix_tuning: {{precision: fp32}}
  adapter: {{precision: fp32, learning_rate: 1e-2}}
  peft: {{peft_type: LOHA, r: 8, precision: fp32, learning_rate: 3e-3}}
"""


def main() -> None:
    """Run the suite, and write what was found and print it."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    import pandas

    with tempfile.TemporaryDirectory() as scratch:
        suite, results = Path(scratch) / "engines.yaml", Path(scratch) / "results"
        suite.write_text(SUITE)
        command = [sys.executable, "-m", "peftbench", "run", str(suite), "-o", str(results)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        subprocess.run(command, check=True, env=environment, stdout=sys.stderr)
        rows = pandas.read_parquet(results / "trials").to_dict("records")
    found = {"cells": [_cell(row) for row in rows if row["status"] == "ok"]}
    found["cells"].sort(key=lambda cell: cell["cell"])
    versions = [form["engine"] for cell in found["cells"] for form in cell["forms"].values() if "engine" in form]
    found["engine"] = versions[0]
    packages = json.loads(rows[0]["environment_json"])["packages"]
    found["here"] = {name: packages[name] for name in ("torch", "transformers", "peft", "lm_eval")}
    RESULT.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
    print(json.dumps(found, indent=1, sort_keys=True))


def _cell(row: dict[str, Any]) -> dict[str, Any]:
    told = json.loads(row["deployed_json"])
    forms = {name: form for name, form in told["forms"].items() if name.startswith(ENGINE)}
    return {
        "cell": row["cell"],
        "precision": row["precision"],
        "forms": {name: _form(name, form, told) for name, form in forms.items()},
    }


def _form(name: str, form: dict[str, Any], told: dict[str, Any]) -> dict[str, Any]:
    """Return what is kept of a form: how it ended, and how far it is from the trained model and from transformers."""
    if form["status"] != "ok":
        return {"status": form["status"], "message": form["message"]}
    same, trained = told["forms"][name.removeprefix(f"{ENGINE}_")], told["scored"]
    return {
        "status": "ok",
        "engine": form["engine"],
        "beside": form["beside"],
        "score": _score(form),
        "score_of_trained": _score(trained),
        "other_outcomes": _differing(form, trained, "outcomes", 0.0),
        "examples": sum(len(task["outcomes"]) for task in form["tasks"].values()),
        "transformers": {
            "score": _score(same),
            "other_outcomes": _differing(form, same, "outcomes", 0.0),
            "largest_target_difference": max(_differences(form, same, "nats")),
        },
    }


def _score(form: dict[str, Any]) -> float:
    return statistics.fmean(task["score"] for task in form["tasks"].values())


def _differences(one: dict[str, Any], other: dict[str, Any], what: str) -> list[float]:
    pairs = ((one["tasks"][task][what], other["tasks"][task][what]) for task in one["tasks"])
    return [abs(a - b) for both in pairs for a, b in zip(*both, strict=True)]


def _differing(one: dict[str, Any], other: dict[str, Any], what: str, limit: float) -> int:
    return sum(difference > limit for difference in _differences(one, other, what))


if __name__ == "__main__":
    main()
