"""Give every reader wrong inputs and check that each has a message and an exit code, and no traceback.

    python -m tools.validation.fuzz --seconds 600 [--first 0] [--only results] [--write]

A finding is an exception other than ``UserError`` (``PEFTBENCH_TRACEBACK`` is set, so none is turned into a message),
an exit code that is not documented, exit code 2 without a message, or an input that takes more than 20 seconds of CPU
time, 3 minutes or 2 GiB. Nothing is trained: suites are planned, results are reported, compared and exported.
``--write`` adds the counts to the record from which docs/trust.md is made.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import random
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

from tools.validation.fuzz import guided
from tools.validation.fuzz.data import data_input
from tools.validation.fuzz.imports import import_input
from tools.validation.fuzz.readers import READERS
from tools.validation.fuzz.results import results_input
from tools.validation.fuzz.running import Tally, command, one
from tools.validation.fuzz.suites import option_input, suite_input

PATH = Path(__file__).with_name("counts.json")
"""The counts of all runs with ``--write`` together."""
DRAWN: dict[str, Callable[[Path, random.Random], list[str]]] = {
    "plan of a suite": suite_input,
    "options": option_input,
    "results folder": results_input,
    "plan of data": data_input,
    "import": import_input,
}
"""Name of a target, and what writes its input into a folder and returns the command that reads it."""
_STRETCH = 40.0
"""Seconds that one target runs before the next has its turn."""


def drawn(name: str, place: Path, seeds: range, until: float = float("inf")) -> Tally:
    """Give a command the inputs of these seeds, each in a fresh folder, until a time of the clock."""
    tally, before = Tally(), Path.cwd()
    for seed in seeds:
        if time.monotonic() > until:
            break
        work = place / "work"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        rows = [{"thing": f"thing {n}", "colour": ("red", "green")[n % 2]} for n in range(20)]
        (work / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (work / "text.txt").write_text("one text\n\nanother text\n" * 5)
        os.chdir(work)
        try:
            line = DRAWN[name](work, random.Random(f"{name} {seed}"))
            command(tally, f"{name}, drawn", line, f"{name}, seed {seed}")
        finally:
            os.chdir(before)
    return tally


def invented(name: str, place: Path, examples: int, seed: int) -> Tally:
    """Give a reader inputs that hypothesis invents."""
    import hypothesis
    from hypothesis import HealthCheck, Phase, given, settings

    from tools.validation.fuzz.strategies import INVENTED

    tally = Tally()
    place.mkdir(parents=True, exist_ok=True)

    @hypothesis.seed(seed)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(INVENTED[name])
    def test(content: bytes) -> None:
        def accepted() -> bool:
            READERS[name](place, content)
            return True

        one(tally, f"{name}, invented", accepted, f"input {ascii(content)[:1500]}")

    test()
    return tally


def _turns(place: Path, only: str) -> list[Callable[[int, float], Tally]]:
    """Return what gives one target inputs for some seconds, from a seed on."""
    found: list[tuple[str, Callable[[int, float], Tally]]] = []
    for name in DRAWN:

        def turn(first: int, seconds: float, name: str = name) -> Tally:
            return drawn(name, place, range(first, first + 10**6), time.monotonic() + seconds)

        found.append((name, turn))
    for name in READERS:
        if importlib.util.find_spec("hypothesis") and name in ("suite text", "data file", "template"):
            found.append(
                (name, lambda first, seconds, name=name: invented(name, place / "i", int(20 * seconds), first))
            )  # type: ignore[misc]
        if importlib.util.find_spec("atheris"):
            found.append((name, lambda first, seconds, name=name: guided.run(name, seconds, first)))  # type: ignore[misc]
    return [turn for name, turn in found if only in name]


def main() -> int:
    """Run the inputs and print the counts; return 1 if anything was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--first", type=int, default=None, help="the first seed (default: after those of the record)")
    parser.add_argument("--only", default="", help="part of the name of the targets")
    parser.add_argument("--write", action="store_true", help="add the counts to the record")
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    os.environ["PEFTBENCH_TRACEBACK"] = "1"
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    first = asked.first if asked.first is not None else 10**7 * (1 + recorded().inputs // 1000)
    tally, began = Tally(), time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        turns = _turns(Path(name), asked.only)
        stretch = max(1.0, min(_STRETCH, asked.seconds / max(1, len(turns))))
        while time.monotonic() - began < asked.seconds:
            for turn in turns:
                known = set(tally.findings)
                found = turn(first, stretch)
                tally.update(found)
                if asked.write:
                    _add(found)
                new = [f"{key}\n{text}\n" for key, text in found.findings.items() if key not in known]
                print("\n".join([*new, f"{tally.inputs:,} inputs, {len(tally.findings)} findings"]), flush=True)
            first += 10**6
    for target in sorted({target for target, _ in tally.counts}):
        each = {ending: tally.counts[target, ending] for ending in ("accepted", "refused", "finding")}
        print(f"{target}: {sum(each.values()):,} inputs, {', '.join(f'{n:,} {what}' for what, n in each.items())}")
    return 1 if tally.findings else 0


def recorded() -> Tally:
    """Return the counts of all runs with ``--write``."""
    return Tally.of_plain({"findings": {}, **json.loads(PATH.read_text())}) if PATH.exists() else Tally()


def _add(found: Tally) -> None:
    whole = recorded()
    whole.update(found)
    lines = ",\n ".join(map(json.dumps, whole.plain()["counts"]))
    PATH.write_text(f'{{"counts": [\n {lines}\n]}}\n')


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
    sys.exit(main())
