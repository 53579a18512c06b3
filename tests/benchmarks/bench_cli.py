"""Start-up time of the command line against that of a bare Python, measured in turns."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from peftbench import suite

SUITE = """
base: nano
tasks: [compute]
seeds: 10
train: {steps: 10, batch_size: 4, sequence_length: 64}
methods:
  lora: {rank: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10], precision: [fp32, bf16]}
"""
TRIALS = 200


def seconds(*arguments: str) -> float:
    begin = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True, env=os.environ)
    return time.perf_counter() - begin


@pytest.mark.parametrize("what", ["plan of a suite of 200 trials", "--help"])
def bench_a_command_against_python(what, benchmark, record_line, tmp_path):
    path = tmp_path / "many.yaml"
    path.write_text(SUITE)
    assert len(suite.expand(suite.load(path), "cpu")) == TRIALS
    argv = ("--help",) if what == "--help" else ("plan", str(path))
    bare: list[float] = []

    def first() -> None:
        bare.append(seconds("-c", "pass"))

    benchmark.pedantic(lambda: seconds("-m", "peftbench", *argv), setup=first, rounds=15, warmup_rounds=1)
    ours = benchmark.stats.stats.data
    record_line(f"peftbench {what} / python -c pass", list(zip(bare[-len(ours) :], ours, strict=True)), "ratio")
    record_line(
        f"peftbench {what}: milliseconds", [1000 * s for s in ours], "ms", "at most 300" if what == "--help" else ""
    )
