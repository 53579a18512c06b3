"""What ``docs/nightly.md`` tells a team to type: its script and its first two nights, run as they stand there."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "nightly.md").read_text()
TINY = """\
base: nano
tasks: {judge: {limit: 4}}
seeds: 1
threads: 1
evaluate: {inference: false, retention: false}
train: {steps: 2, batch_size: 2, sequence_length: 64, untimed_steps: 0}
methods: {lora: {rank: 8, learning_rate: 3e-3}}
"""
FAKE = """\
#!/bin/sh
echo "$@" >> calls
[ "$1" = run ] && { mkdir -p "$4"; echo "ran $2"; exit $(cat run_code); }
echo compared; exit $(cat compare_code)
"""


def script() -> str:
    (found,) = re.findall(r"^```sh\n(.*?)^```", DOCUMENT, re.DOTALL | re.MULTILINE)
    return str(found)


class Home:
    """A home folder with the script, a ``peftbench`` of its own and a ``date`` that says which day it is."""

    def __init__(self, folder: Path, peftbench: str) -> None:
        self.folder, self.grid = folder, folder / "grid"
        (self.grid / ".venv" / "bin").mkdir(parents=True)
        (folder / "bin").mkdir()
        (self.grid / "nightly.sh").write_text(script())
        self.program(self.grid / ".venv" / "bin" / "peftbench", peftbench)

    def program(self, path: Path, text: str) -> None:
        path.write_text(text)
        path.chmod(0o755)

    def night(self, day: str) -> tuple[int, str]:
        """Run the script on a day; return its exit code and what cron would mail."""
        self.program(self.folder / "bin" / "date", f"#!/bin/sh\necho {day}\n")
        variables = {**os.environ, "HOME": str(self.folder), "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}"}
        variables |= {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "XDG_CACHE_HOME": str(self.folder / "cache")}
        command = ["sh", str(self.grid / "nightly.sh")]
        done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=300)
        return done.returncode, done.stdout + done.stderr


def test_the_script_mails_only_what_went_wrong(tmp_path):
    home = Home(tmp_path, FAKE)

    def night(day: str, run: int, compare: int) -> tuple[int, str]:
        (home.grid / "run_code").write_text(str(run))
        (home.grid / "compare_code").write_text(str(compare))
        return home.night(day)

    assert night("2026-11-27", 0, 9) == (0, ""), "the first night is compared with nothing"
    assert night("2026-11-28", 0, 0) == (0, "")
    assert night("2026-11-28", 0, 0) == (0, ""), "a second time on the same day: against the night before"
    assert night("2026-11-29", 0, 1) == (1, "compared\n")
    assert night("2026-11-30", 1, 0) == (0, "the run failed:\nran nightly\n"), "and it is compared all the same"
    assert night("2026-12-01", 2, 3) == (3, "the run failed:\nran nightly\ncompared\n")
    compared = [line for line in (home.grid / "calls").read_text().splitlines() if line.startswith("compare")]
    assert compared[:3] == [
        "compare nights/2026-11-27/ nights/2026-11-28",
        "compare nights/2026-11-27/ nights/2026-11-28",
        "compare nights/2026-11-28/ nights/2026-11-29",
    ]


@pytest.mark.slow  # three grids of one trial
def test_the_script_runs_nights_and_tells_what_regressed(tmp_path):
    python = '#!/bin/sh\nname=$1; shift\n[ "$1" = nightly ] && { shift; set -- tiny.yaml "$@"; }\n'
    home = Home(tmp_path, f'{python}exec {sys.executable} -m peftbench "$name" "$@"\n')
    suite = home.grid / "tiny.yaml"
    suite.write_text(TINY)
    assert home.night("2026-11-27") == (0, "")
    assert home.night("2026-11-28") == (0, "")
    suite.write_text(TINY.replace("batch_size: 2", "batch_size: 4"))
    code, mail = home.night("2026-11-29")
    assert code == 1
    assert "training memory" in mail
    assert "the run failed" not in mail
    suite.unlink()
    code, mail = home.night("2026-11-30")
    assert code == 2
    assert mail.startswith("the run failed:\n")
    assert "no such folder: nights/2026-11-30" in mail


@pytest.mark.slow  # two grids of two trials
def test_the_first_two_nights_of_a_fresh_clone_work_as_typed(tmp_path):
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True, timeout=120)
    (block,) = re.findall(r"^```\n(peftbench run nightly --seeds.*?)^```", DOCUMENT, re.DOTALL | re.MULTILINE)
    variables = {**os.environ, "PYTHONPATH": str(clone), "HF_HUB_OFFLINE": "1"}
    ends = []
    for line in block.splitlines():
        command = [sys.executable, "-m", *shlex.split(line)]
        ends.append(subprocess.run(command, cwd=clone, env=variables, capture_output=True, text=True, timeout=300))
    assert [each.returncode for each in ends] == [0, 0, 0, 0], [each.stderr + each.stdout for each in ends]
    assert "no regression" in ends[2].stdout
    assert "no regression" in ends[3].stdout
