"""Trials that run out of memory, hang, crash in C code or diverge, all in one grid."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from tools.validation.chaos import control_group, evidence, grids

INJECTED = Path(__file__).parent / "injected"
_LIMIT = 6
"""Seconds for each phase. The longest of them takes half a second on an idle machine."""
_GROUP_BYTES = 2**30
"""Memory of the command with all its processes, which take two thirds of it unless a trial is made to take more."""
SUITE = """
base: {base}
threads: 1
seeds: {seeds}
evaluate: {{inference: false}}
timeout_seconds: {{load: {limit}, attach: {limit}, train: {limit}, evaluate: {limit}, total: 600}}
tasks:
  colour: {{kind: choice, train: {data}, test: {data}, prompt: "{{{{thing}}}} ?", target: "{{{{colour}}}}",
            choices: [red, green, blue], limit: 8}}
train: {{steps: 4, batch_size: 4, sequence_length: 32, untimed_steps: 1}}
methods:
  lora:
  full: {{learning_rate: 1.0e+30}}
"""
"""LoRA's trials end ok, those of full fine-tuning diverge, but for the faults."""
FEW, ALL = 2, 8
"""Seeds of the grid: enough for each fault to find a trial that comes to its phase."""
SHORT = ("attach.oom", "train.segv", "evaluate.hang")
FAULTS = (
    *("load.oom", "load.kernel", "load.hang", "attach.oom", "attach.hang"),
    *("train.oom", "train.kernel", "train.hang", "train.segv"),
    *("evaluate.oom", "evaluate.hang", "evaluate.abort"),
)
EXPECTED = {
    "oom": ("oom", "can't allocate memory"),
    "kernel": ("oom", "the kernel killed the process: out of memory"),
    "hang": ("timeout", f"stopped after {_LIMIT} s of "),
    "segv": ("killed", "signal SIGSEGV at "),
    "abort": ("killed", "signal SIGABRT at "),
}
"""How -> the status of the row, and a part of its message."""


def trial_faults(work: Path, names: tuple[str, ...] = FAULTS, seeds: int = ALL) -> list[str]:
    """Have trials of a grid fail, one for each fault, then continue it by the same command."""
    with control_group.limited_to(_GROUP_BYTES) as group:
        if group is None:
            print("  kills by the kernel left out: this user may not make control groups", flush=True)
            names = tuple(name for name in names if not name.endswith(".kernel"))
        return _played(work, names, seeds, group)


def _played(work: Path, names: tuple[str, ...], seeds: int, group: Path | None) -> list[str]:
    grids.prepare(work, 1, 1)
    (work / "storm.yaml").write_text(
        SUITE.format(base=work / "base", data=work / "colours.jsonl", limit=_LIMIT, seeds=seeds)
    )
    faults = work / "faults"
    faults.mkdir()
    for number, name in enumerate(names):
        (faults / f"{name}.{number}").touch()
    code, text = _run(work, faults, group)
    first = _rows(work / "r")
    wrong = [] if code == 1 else [f"exit code {code} after trials that failed: {text[-800:]}"]
    wrong += [f"no trial came to {path.name}" for path in faults.iterdir() if not path.name.startswith("taken-")]
    for path in faults.glob("taken-*"):
        wrong += _checked(path, first)
    hit = {path.read_text() for path in faults.glob("taken-*")}
    wrong += _others(first, hit)
    statuses = Counter(EXPECTED[name.split(".")[1]][0] for name in names)
    lacking = [f"{count} {status}" for status, count in statuses.items() if f"{count} {status}" not in text]
    wrong += [f"the summary does not say {lacking}: {text[-1500:]}"] if lacking else []
    before = evidence.rows(work / "r")
    code, text = _run(work, faults, group)
    after = evidence.rows(work / "r")
    wrong += [f"lost: {key}" for key in after.lost(before)] + [f"changed: {key}" for key in after.changed(before)]
    again = _rows(work / "r")
    left = {str(row["status"]) for row in again.values()} - {"ok", "oom", "diverged"}
    wrong += [f"the same command left {left}: {text[-800:]}"] if left or len(again) != 2 * seeds else []
    wrong += evidence.doubled(work / "r")
    return wrong


def _run(work: Path, faults: Path, group: Path | None) -> tuple[int, str]:
    environment = {
        **os.environ,
        **{"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PEFTBENCH_CHAOS_FAULTS": str(faults)},
        **{"PYTHONPATH": f"{INJECTED}:{grids.REPOSITORY}", "TMPDIR": str(work / "tmp")},
    }
    command = [sys.executable, "-m", "peftbench", "run", "storm.yaml", "--results", "r"]
    with subprocess.Popen(
        command, cwd=work, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as run:
        if group is not None:
            (group / "cgroup.procs").write_text(str(run.pid))
        text = run.communicate()[0]
    return run.returncode, text


def _rows(folder: Path) -> dict[str, dict[str, Any]]:
    from peftbench.results import store

    return {row["key"]: row for row in store.read_trials(folder).to_dict("records")}


def _checked(taken: Path, rows: dict[str, dict[str, Any]]) -> list[str]:
    """Check the row of the trial that took a fault."""
    phase, how, _ = taken.name.removeprefix("taken-").split(".")
    row = rows.get(taken.read_text())
    if row is None:
        return [f"no row after {taken.name}"]
    status, words = EXPECTED[how]
    found = (row["status"], row["phase"])
    if found != (status, phase) or words not in str(row["message"]):
        return [f"{taken.name}: {found}, {row['message']}"]
    stack = str(row["stack"])
    if status != "oom" and not ("sitecustomize.py, line " in stack and "child.py, line" in stack):
        return [f"{taken.name}: no stack in the row: {row['stack']!r}"]
    return []


def _others(rows: dict[str, dict[str, Any]], hit: set[str]) -> list[str]:
    expected = {"lora": "ok", "full": "diverged"}
    others = [row for key, row in rows.items() if key not in hit]
    return [f"{r['cell']}: {r['status']}, {r['message']}" for r in others if r["status"] != expected[r["method"]]]
