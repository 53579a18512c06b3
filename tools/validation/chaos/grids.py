"""The grid that the storm runs, and the command that runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tools.validation.chaos import processes

REPOSITORY = Path(__file__).resolve().parents[3]
SUITE = """
base: {base}
threads: 1
evaluate: {{inference: false}}
seeds: {seeds}
workers: {workers}
checkpoint_every_seconds: 0.05
tasks:
  colour: {{kind: choice, train: {data}, test: {data}, prompt: "{{{{thing}}}} ?", target: "{{{{colour}}}}",
            choices: [red, green, blue], limit: 8}}
train: {{steps: 6, batch_size: 4, sequence_length: 32, untimed_steps: 1}}
methods: [base, full, prompt_tuning, adapter, lora]
"""
"""Trials of about half a second. Their training is saved at every step, so that most kills also make it continue."""


def prepare(work: Path, seeds: int, workers: int) -> None:
    """Write the base model, the data and the suite ``storm.yaml`` into a folder."""
    from tests.support import tiny_base, trials

    tiny_base.make(work / "base", num_hidden_layers=1)
    trials.tasks(work)
    (work / "tmp").mkdir()
    text = SUITE.format(base=work / "base", data=work / "colours.jsonl", seeds=seeds, workers=workers)
    (work / "storm.yaml").write_text(text)


def start(work: Path, results: str, errors: Path) -> subprocess.Popen[bytes]:
    """Start the run in a session and with temporary files of its own, as in a terminal that is about to be closed.

    Args:
        work: the folder of ``prepare``.
        results: name of the results folder in it.
        errors: what the command prints, errors included; replaced.
    """
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(REPOSITORY),
        "TMPDIR": str(work / "tmp"),
        "XDG_CACHE_HOME": str(work / "cache"),
        processes.MARK: str(work),
    }
    with errors.open("wb") as out:
        return subprocess.Popen(
            [sys.executable, "-m", "peftbench", "run", "storm.yaml", "--results", results],
            cwd=work,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
