"""The time of a trial on nano that belongs to no phase."""

from __future__ import annotations

import os
import subprocess
import sys

from peftbench.results.store import read

SEEDS = 5


def bench_a_trial_outside_its_phases(benchmark, record_line, tmp_path):
    selected = ("--only", "method=lora", "--only", "rank=8", "--only", "precision=fp32", "--seeds", str(SEEDS))
    command = [sys.executable, "-m", "peftbench", "run", "quickstart", *selected, "--set", "workers=1"]
    command += ["--set", "threads=1", "-o", str(tmp_path / "made")]

    def run() -> None:
        subprocess.run(command, check=True, capture_output=True, env=os.environ)

    benchmark.pedantic(run, rounds=1)
    rows = read(tmp_path / "made").trials
    assert list(rows["status"]) == ["ok"] * SEEDS
    record_line(
        "trial on nano: time that no phase owns / its wall time",
        list(rows.untracked_seconds / rows.wall_seconds),
        "share",
    )
    record_line(
        "trial on nano: starting its process / its wall time", list(rows.start_seconds / rows.wall_seconds), "share"
    )
