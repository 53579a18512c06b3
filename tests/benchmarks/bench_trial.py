"""Where the seconds of a trial on nano go: each phase, and what no phase owns."""

from __future__ import annotations

import os
import subprocess
import sys

from peftbench.results.store import read

SEEDS = 5
PHASES = ("train", "evaluate", "inference", "account", "plan", "retention", "check", "data", "attach", "load", "save")
"""The phases of such a trial in the order of what they take. Only the first seed measures inference cost and is
predicted."""


def bench_a_trial_outside_its_phases(benchmark, record_line, tmp_path):
    selected = ("--only", "method=lora", "--only", "rank=8", "--only", "precision=fp32", "--seeds", str(SEEDS))
    command = [sys.executable, "-m", "peftbench", "run", "quickstart", *selected, "--set", "workers=1"]
    command += ["--set", "threads=1", "-o", str(tmp_path / "made")]

    def run() -> None:
        subprocess.run(command, check=True, capture_output=True, env=os.environ)

    benchmark.pedantic(run, rounds=1)
    rows = read(tmp_path / "made").trials
    assert list(rows["status"]) == ["ok"] * SEEDS
    for phase in PHASES:
        taken = rows[f"{phase}_seconds"].dropna()
        assert len(taken), phase
        record_line(f"trial on nano: {phase} / its wall time", list(taken / rows.wall_seconds[taken.index]), "share")
    record_line(
        "trial on nano: time that no phase owns / its wall time",
        list(rows.untracked_seconds / rows.wall_seconds),
        "share",
    )
    record_line(
        "trial on nano: starting its process / its wall time", list(rows.start_seconds / rows.wall_seconds), "share"
    )
