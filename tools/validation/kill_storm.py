"""Kill a running grid repeatedly and check that no finished result is lost, duplicated or changed.

    python -m tools.validation.kill_storm --kills 200 [--seed 0]

A small grid is run once without interruption. Then the same command is started repeatedly on another results folder,
and at random moments either the runner or the running trial is killed with SIGKILL. The folder is read after each kill.
When a grid is complete, its rows are compared bit for bit with the uninterrupted ones, and a new folder is started.
A kill takes about 10 s, most of it for importing libraries. The tests run it with a few kills (``--run-slow``).
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil

REPOSITORY = Path(__file__).resolve().parents[2]
SUITE = """
base: {base}
threads: 1
seeds: 2
tasks:
  colour: {{kind: choice, train: {data}, test: {data}, prompt: "{{{{thing}}}} ?", target: "{{{{colour}}}}",
            choices: [red, green, blue], limit: 8}}
train: {{steps: 6, batch_size: 4, sequence_length: 32, untimed_steps: 1}}
methods: [base, full, prompt_tuning, adapter, lora]
"""
EXACT = ("status", "last_loss", "first_loss", "score_colour", "batches_sha256", "checkpoint_bytes", "peak_train_bytes")
"""Columns of a trial that must be equal bit for bit; times may differ."""


@dataclass
class Tally:
    """Counts of events, and the faults found."""

    kills: int = 0
    parents: int = 0
    children: int = 0
    commands: int = 0
    grids: int = 0
    faults: list[str] = field(default_factory=list)


def command(work: Path, results: str) -> subprocess.Popen:
    """Start the run in its own session, as a terminal does."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(REPOSITORY)}
    return subprocess.Popen(
        [sys.executable, "-m", "peftbench", "run", "storm.yaml", "--results", results],
        cwd=work,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=(work / "stderr.txt").open("a"),
        start_new_session=True,
    )


def trial_process(runner: subprocess.Popen) -> psutil.Process | None:
    """Return the process of the running trial, or None. It is a child of the server, which is a child of the runner."""
    try:
        for server in psutil.Process(runner.pid).children():
            for child in server.children():
                return child
    except psutil.NoSuchProcess:
        pass
    return None


def family(runner: subprocess.Popen) -> list[psutil.Process]:
    """Return all processes below the runner."""
    try:
        return psutil.Process(runner.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def snapshot(folder: Path) -> tuple[dict, dict, dict]:
    """Return the stored exact values of final trials, their losses and their outcomes, by key."""
    from peftbench.records import FINAL
    from peftbench.results import store

    if not (folder / "trials").is_dir() or not list((folder / "trials").glob("*.parquet")):
        return {}, {}, {}
    tables = store.read(folder)
    assert tables.trials["key"].is_unique, "a trial is duplicated"
    final = tables.trials[tables.trials["status"].isin([str(s) for s in FINAL])]
    keys = set(final["key"])
    assert not tables.steps.duplicated(["key", "step"]).any(), "a step is duplicated"
    assert not tables.examples.duplicated(["key", "task", "index"]).any(), "an example is duplicated"
    rows = {row["key"]: tuple(str(row[c]) for c in EXACT) for row in final.to_dict("records")}
    losses = {k: tuple(g.sort_values("step")["loss"]) for k, g in tables.steps.groupby("key") if k in keys}
    outcomes = {
        k: tuple(zip(g["index"], g["outcome"], g["choice_logprobs"], strict=True))
        for k, g in tables.examples.sort_values("index").groupby("key")
        if k in keys
    }
    return rows, losses, outcomes


def strike(runner: subprocess.Popen, rng: random.Random, tally: Tally) -> None:
    """Wait for a random time, then kill the runner, or the trial if one is running, and count the kill."""
    moment = time.monotonic() + rng.uniform(0, 4)
    if rng.random() < 0.8:  # most kills during trials, some during start-up
        while runner.poll() is None and trial_process(runner) is None:
            time.sleep(0.02)
        moment = time.monotonic() + rng.uniform(0, 3)
    while runner.poll() is None and time.monotonic() < moment:
        time.sleep(0.005)
    if runner.poll() is not None:
        return
    trial = trial_process(runner) if rng.random() < 0.5 else None
    below = family(runner)
    if trial is not None:
        try:
            trial.kill()
        except psutil.NoSuchProcess:
            return
        tally.kills, tally.children = tally.kills + 1, tally.children + 1
        return
    runner.send_signal(signal.SIGKILL)
    runner.wait()
    tally.kills, tally.parents = tally.kills + 1, tally.parents + 1
    _, alive = psutil.wait_procs(below, timeout=5)
    tally.faults += [f"orphan {p} after {tally.kills} kills" for p in alive]


def storm(work: Path, kills: int, rng: random.Random) -> Tally:
    """Run and kill grids of ``storm.yaml`` in a folder; return the counts and faults."""
    tally = Tally()
    assert command(work, "calm").wait() == 0, (work / "stderr.txt").read_text()
    calm = snapshot(work / "calm")
    while tally.kills < kills:
        folder, known = work / f"storm{tally.grids}", {}
        code = None
        while code != 0:
            runner = command(work, folder.name)
            tally.commands += 1
            while runner.poll() is None and tally.kills < kills:
                strike(runner, rng, tally)
                now = snapshot(folder)[0]
                lost = {k for k, v in known.items() if now.get(k) != v}
                tally.faults += [f"lost or changed: {k} after {tally.kills} kills" for k in lost]
                known = now
            code = runner.wait()
            print(f"{tally.kills} kills, {tally.commands} commands, {tally.grids} grids, {tally.faults}", flush=True)
        if snapshot(folder) != calm:
            tally.faults.append(f"grid {tally.grids} differs from the uninterrupted one")
        tally.grids += 1
    return tally


def prepare(work: Path) -> None:
    """Write the base model, the data and the suite."""
    sys.path.insert(0, str(REPOSITORY))
    from tests.support import tiny_base, trials

    tiny_base.make(work / "base")
    trials.tasks(work)
    (work / "storm.yaml").write_text(SUITE.format(base=work / "base", data=work / "colours.jsonl"))


def main() -> int:
    """Run the kill storm; return 1 if a fault was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    sys.path.insert(0, str(REPOSITORY))
    with tempfile.TemporaryDirectory() as name:
        prepare(Path(name))
        tally = storm(Path(name), arguments.kills, random.Random(arguments.seed))
    print(tally)
    return 1 if tally.faults else 0


if __name__ == "__main__":
    sys.exit(main())
