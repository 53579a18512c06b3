"""Run nights of a small grid, some with a planted change, and see what ``compare`` and ``history`` say.

    taskset -c 0 python -m tools.validation.planted_changes --pairs 20 --keep /tmp/planted

Nights without a change come first: each is compared with the night before it. Then each planted change is made in a
copy of the package, in the suite, in its data or in the installed packages, one night is run with it, it is compared
with the last unchanged night, and ``history`` sees it after all of them. What was found, by which rule and at which
effect goes to ``results/reference/nightly.json``. A night takes less than a minute of one idle core. A night that the
kept folder has is not run again, so the same command continues, or judges the same nights by changed rules. It is run
again if its suite, its data, its plant or the installed packages are not those of now.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from peftbench.measure import environment
from peftbench.tasks.builtin import describe

ROOT = Path(__file__).resolve().parents[2]
OUTPUT = ROOT / "results" / "reference" / "nightly.json"
SUITE = """\
base: nano
tasks:
  sentence: {{kind: generation, train: train.jsonl, test: test.jsonl, prompt: "{{{{ prompt }}}}",
             target: "{{{{ target }}}}", max_new_tokens: 32}}
threads: 1
workers: 1
seeds: {seeds}
train: {{steps: 48, batch_size: 8, sequence_length: 64}}
evaluate: {{inference: false, retention: false}}
methods:
  full: {{learning_rate: 5e-4}}
  adapter: {{rank: 16, learning_rate: 1e-2}}
  llama_adapter: {{rank: 10, learning_rate: 1e-1}}
  lora: {{rank: 8, learning_rate: {lora_rate}}}
"""
TRAIN, TEST = 480, 50
"""Examples of the built-in task ``describe`` that the data files have."""


@dataclass(frozen=True)
class Plant:
    """A change, and what must be found of it."""

    name: str
    kind: str
    """The kind of quantity that must regress; ``moved`` if the change must be named instead."""
    expected: str = ""
    """For ``moved``: a word that must be named."""
    cell: str = ""
    """Text in the name of the cell that must regress; empty for any."""
    edits: tuple[tuple[str, str, str], ...] = ()
    """(file below the package, text, text in its place) of the copied package."""
    suite: dict[str, Any] = field(default_factory=dict)
    """Values of the suite's text that differ."""
    package: str | None = None
    """A requirement that is installed before the others."""
    lines: int = 0
    """How many lines of the training file change."""


PLANTS = (
    Plant(
        "each step takes 10 % longer",
        "speed",
        edits=(
            (
                "training/loop.py",
                "        seconds = clock.now() - start\n",
                "        end = clock.now() + 0.1 * (clock.now() - start)\n"
                "        while clock.now() < end:\n"
                "            pass\n"
                "        seconds = clock.now() - start\n",
            ),
        ),
    ),
    Plant(
        "the adapter keeps one more activation",
        "memory",
        cell="adapter",
        edits=(
            (
                "methods/adapter.py",
                "        change = self.up(self.activation(self.down(inner)))\n",
                "        change = self.up(self.activation(self.down(inner)))\n"
                "        change = change + 0 * change.exp()\n",
            ),
        ),
    ),
    Plant(
        "the adapter's checkpoint holds one more tensor",
        "size",
        cell="adapter",
        edits=(
            (
                "methods/adapter.py",
                "    save_file(state, folder / _WEIGHTS",
                '    state = {**state, "more": torch.zeros(1000)}\n    save_file(state, folder / _WEIGHTS',
            ),
        ),
    ),
    Plant("LoRA's learning rate is a hundredth", "score", cell="lora", suite={"lora_rate": "3e-5"}),
    Plant("a seed less", "moved", "seed", suite={"seeds": 2}),
    Plant("a package's version moved", "moved", "accelerate", package="accelerate==1.14.0"),
    Plant("ten lines of the training file changed", "moved", "data", lines=10),
)


def data(changed: int = 0) -> dict[str, str]:
    """Return files with examples of a built-in task, by name; ``changed`` training lines get another answer."""
    files = {}
    for split, count, others in (("train", TRAIN, changed), ("test", TEST, 0)):
        rows = [{"prompt": each.prompt, "target": each.target} for each in describe.examples(split)[:count]]
        for row in rows[:others]:
            row["target"] = row["target"].upper()
        files[f"{split}.jsonl"] = "".join(json.dumps(row) + "\n" for row in rows)
    return files


def recipe(plant: Plant | None, files: dict[str, str]) -> str:
    """Return a hash of what a night is made of: suite, data, plant and packages, but not the package's own code."""
    packages = {name: version for name, version in environment.describe()["packages"].items() if name != "peftbench"}
    parts = SUITE, files, plant and asdict(plant), packages
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def night(work: Path, name: str, plant: Plant | None = None) -> Path:
    """Run the grid, with a planted change if one is given, unless it was run like that; return its results folder."""
    results, made = work / "nights" / name, work / "made" / name
    files = data(plant.lines if plant else 0)
    wanted = recipe(plant, files)
    if made.exists() and made.read_text() == wanted:
        return results
    made.unlink(missing_ok=True)
    shutil.rmtree(results, ignore_errors=True)  # the keys of its trials do not have all that a plant changes
    source = work / "source"  # always the same path, so that compiled files serve all nights
    shutil.rmtree(source, ignore_errors=True)
    shutil.copytree(ROOT / "peftbench", source / "peftbench", ignore=shutil.ignore_patterns("__pycache__"))
    values = {"seeds": 3, "lora_rate": "3e-3"}
    paths = [str(source)]
    if plant:
        values |= plant.suite
        for file, old, new in plant.edits:
            path = source / "peftbench" / file
            text = path.read_text()
            if text.count(old) != 1:
                raise ValueError(f"{file} does not contain {old!r} once")
            path.write_text(text.replace(old, new))
        if plant.package:
            target = work / "packages"
            install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target)]
            subprocess.run([*install, plant.package], check=True, stderr=subprocess.DEVNULL)
            paths.insert(0, str(target))
    for each, text in files.items():
        (work / each).write_text(text)
    (work / "small.yaml").write_text(SUITE.format(**values))
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1"}
    variables["PYTHONPYCACHEPREFIX"] = str(work / "compiled")
    command = [sys.executable, "-m", "peftbench", "run", "small.yaml", "--results", f"nights/{name}"]
    ran = subprocess.run(command, cwd=work, env=variables, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise RuntimeError(f"the night {name} ended with {ran.returncode}: {ran.stderr[-2000:]}")
    made.parent.mkdir(exist_ok=True)
    made.write_text(wanted)
    return results


def compared(old: Path, new: Path) -> tuple[int, dict[str, Any]]:
    """Return the exit code and the JSON of ``peftbench compare``."""
    command = [sys.executable, "-m", "peftbench", "compare", old.name, new.name, "--format", "json"]
    variables = {**os.environ, "PYTHONPATH": str(ROOT)}
    ran = subprocess.run(command, cwd=old.parent, env=variables, capture_output=True, text=True, check=False)
    return ran.returncode, json.loads(ran.stdout)


def history(nights: Sequence[Path]) -> list[dict[str, Any]]:
    """Return the changes for the worse that ``peftbench history`` says are in force at the newest night."""
    command = [sys.executable, "-m", "peftbench", "history", *(night.name for night in nights), "--format", "json"]
    variables = {**os.environ, "PYTHONPATH": str(ROOT)}
    ran = subprocess.run(command, cwd=nights[0].parent, env=variables, capture_output=True, text=True, check=False)
    names = ("cell", "quantity", "rule", "before", "after", "change")
    changes = [change for change in json.loads(ran.stdout)["changes"] if change["regressed"]]
    return [{name: change.get(name) for name in names} for change in changes]


def judged(old: Path, new: Path, plant: Plant | None = None) -> dict[str, Any]:
    """Return what a comparison said, and whether a planted change was found."""
    code, said = compared(old, new)
    regressed = [one for one in said["findings"] if one["verdict"] == "regressed"]
    made = {"old": old.name, "new": new.name, "exit_code": code, "regressed": list(map(_short, regressed))}
    if plant is None:
        return made
    made |= {"plant": plant.name, "kind": plant.kind, "busy_trials_count": said["new"]["busy_trials_count"]}
    if plant.kind == "moved":
        named = [f"{one['what']} {one['name']}: {one['old']} -> {one['new']}" for one in said["moved"]]
        told = [line for line in named if plant.expected in line]
        return made | {"found": bool(told), "by": [line[:120] for line in told[:2]]}
    hits = [one for one in regressed if one["kind"] == plant.kind and plant.cell in one["cell"]]
    return made | {"found": bool(hits), "by": list(map(_short, hits))}


def _short(finding: dict[str, Any]) -> dict[str, Any]:
    names = ("cell", "kind", "quantity", "rule", "old", "new", "change", "adjusted_p", "reason")
    return {name: finding[name] for name in names}


def main() -> None:
    """Run the nights and write what was found; a plant alone with ``--only`` is printed and not written."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=20, help="pairs of unchanged nights (default: 20)")
    parser.add_argument("--only", metavar="TEXT", help="only the plants whose name has this text")
    parser.add_argument("--keep", metavar="FOLDER", help="folder that keeps the nights; those that it has are not run")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(given.keep or folder).resolve()
        work.mkdir(parents=True, exist_ok=True)
        nights = [night(work, f"{number:02d}") for number in range(given.pairs + 1)]
        pairs = [judged(*two) for two in itertools.pairwise(nights)]
        for pair in pairs:
            print(
                f"{pair['old']} and {pair['new']}: exit code {pair['exit_code']}", pair["regressed"] or "", flush=True
            )
        unchanged = history(nights)
        print(f"history over {len(nights)} unchanged nights:", unchanged or "no change for the worse", flush=True)
        found = {"environment": environment.describe()["packages"], "pairs": pairs, "history": unchanged, "plants": []}
        for plant in (plant for plant in PLANTS if (given.only or "") in plant.name):
            planted = night(work, plant.name.replace("%", "percent"), plant)
            found["plants"].append(
                judged(nights[-1], planted, plant) | {"history": history([*nights, planted])},
            )
            print(json.dumps(found["plants"][-1], indent=1), flush=True)
            if given.only is None:
                OUTPUT.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
