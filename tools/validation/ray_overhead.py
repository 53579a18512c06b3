"""What a cluster costs: the same trials with the local executor and with Ray on this machine, one at a time.

``python -m tools.validation.ray_overhead [--trials N] [--rounds N] [--write]`` runs N trials of ``nano`` with each
executor in turn, and prints the time from the start of the run to its first trial, and the time between the end of a
trial and the start of the next one, in which the result is passed on and stored. With ``--write`` it renews the table
in ``docs/many_machines.md``. Beside other jobs all times grow; the two columns grow alike.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from peftbench import suite
from peftbench.measure import environment
from peftbench.runner import grid, prepare
from peftbench.runner.executor import Event, kinds

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "many_machines.md"
_BEGIN, _END = "<!-- ray_overhead -->", "<!-- end of ray_overhead -->"
_SET = ("train.steps=2", "evaluate.inference=false", "device=cpu")


@dataclass
class Times:
    """Seconds of the runs with one executor."""

    first: list[float] = field(default_factory=list)
    """From the start of a run to its first trial."""
    between: list[float] = field(default_factory=list)
    """From the end of a trial, by its own clock, to the start of the next."""
    trials: list[float] = field(default_factory=list)
    """Wall time of the trials."""


def measure(name: str, trials: int, times: Times) -> None:
    """Run as many trials with an executor, one at a time, and add their times."""
    threads = len(os.sched_getaffinity(0))  # so that Ray, too, runs one at a time
    loaded = suite.load(
        "quickstart", overrides=[*_SET, f"threads={threads}"], only=["method=lora", "rank=2"], seeds=str(trials)
    )
    began: dict[str, float] = {}
    ended: list[tuple[str, float]] = []

    def observe(event: Event) -> None:
        began.setdefault(event.job.key, time.perf_counter())
        if event.result is not None:
            ended.append((event.job.key, float(event.result.row.wall_seconds or 0.0)))

    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        with kinds.opened(name) as executor:
            made = prepare.prepare(suite.expand(loaded, "cpu"), Path(folder), 1, "peftbench run quickstart")
            grid.run(made, observe, executor.run)
    starts = [began[key] for key, _ in ended]
    walls = [wall for _, wall in ended]
    times.first.append(starts[0] - start)
    times.trials += walls
    times.between += [after - before - wall for before, after, wall in zip(starts, starts[1:], walls, strict=False)]


def lines(found: dict[str, Times], trials: int, rounds: int) -> list[str]:
    """Return the table, in Markdown."""
    local, ray = found["local"], found["ray"]
    what = (
        ("start of the run to its first trial", local.first, ray.first),
        ("end of a trial to the start of the next", local.between, ray.between),
        ("a trial itself", local.trials, ray.trials),
    )
    described = environment.describe()
    versions = f"Python {platform.python_version()}, torch {described['packages']['torch']}"
    return [
        "| seconds, median | local | ray | difference |",
        "|---|---:|---:|---:|",
        *(
            f"| {name} | {statistics.median(a):.2f} | {statistics.median(b):.2f} | "
            f"{statistics.median(b) - statistics.median(a):+.2f} |"
            for name, a, b in what
        ),
        "",
        f"{rounds} runs of {trials} trials with each executor, in turn; {described['cpu']}, {os.cpu_count()} CPUs, "
        f"{versions}; load average at the end {os.getloadavg()[0]:.1f}.",
    ]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--write", action="store_true")
    asked = parser.parse_args(argv)
    found = {"local": Times(), "ray": Times()}
    for _ in range(asked.rounds):
        for name, times in found.items():
            measure(name, asked.trials, times)
    text = lines(found, asked.trials, asked.rounds)
    print("\n".join(text))
    if asked.write:
        before, _, rest = DOCUMENT.read_text().partition(_BEGIN)
        DOCUMENT.write_text(f"{before}{_BEGIN}\n" + "\n".join(text) + f"\n{_END}{rest.partition(_END)[2]}")


if __name__ == "__main__":
    main()
