"""The help's examples, completion by a shell, and answers to typing errors before anything heavy is imported."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from peftbench import cli, suite
from tools.docs import cli_document

ROOT = Path(__file__).parents[2]
LIBRARIES = ("pandas", "pyarrow", "scipy", "matplotlib", "numpy", "pydantic", "torch", "rich")
EXAMPLES = [(name, line) for name, parser in cli_document.commands().items() for line in parser.examples]


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=120,
    )


def completions(line: str, tmp_path: Path) -> list[str]:
    """What a shell offers after a line."""
    found = tmp_path / "found"
    asked = {"_ARGCOMPLETE": "1", "_ARGCOMPLETE_SHELL": "bash", "_ARGCOMPLETE_IFS": "\n", "COMP_LINE": line}
    done = python(
        "from peftbench import cli; cli.main([])",
        **asked,
        COMP_POINT=str(len(line)),
        _ARGCOMPLETE_STDOUT_FILENAME=str(found),
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    return [word.strip() for word in found.read_text().splitlines()]


def test_the_help_of_each_command_has_two_examples():
    assert {len(parser.examples) for parser in cli_document.commands().values()} == {2}
    for parser in (cli.parser(), *cli_document.commands().values()):
        assert parser.format_help().endswith("\n".join(["examples:", *(f"  {line}" for line in parser.examples), ""]))


@pytest.mark.parametrize(("name", "line"), EXAMPLES, ids=[line for _, line in EXAMPLES])
def test_an_example_parses_and_names_a_suite_that_exists(name, line):
    program, *words = shlex.split(line)
    assert (program, words[0]) == ("peftbench", name)
    found = cli.parser().parse_args(words)
    if name in ("run", "plan"):
        assert suite.expand(suite.load(found.suite, overrides=found.set, only=found.only, seeds=found.seeds), "cpu")


@pytest.mark.parametrize(
    ("line", "some"),
    [
        ("peftbench re", ["report"]),
        ("peftbench run qui", ["quickstart"]),
        ("peftbench plan suites/quick", ["suites/quickstart.yaml"]),
        ("peftbench run quickstart --se", ["--set", "--seeds"]),
        ("peftbench run quickstart --only me", ["method="]),
        ("peftbench run quickstart --only method=lora,qlo", ["method=lora,qlora"]),
        ("peftbench run quickstart --only precision=nf", ["precision=nf4", "precision=nf4-fp32"]),
        ("peftbench run quickstart --only rank=", []),
        ("peftbench report results/ref", ["results/reference/"]),
        ("peftbench report x --format b", ["brief"]),
        ("peftbench list methods VE", ["VERA"]),
    ],
)
def test_a_shell_completes_commands_suites_options_and_values(line, some, tmp_path):
    assert completions(line, tmp_path) == some


def test_completion_costs_nothing_in_other_calls():
    code = "import sys; from peftbench import cli\ntry: cli.main(['--help'])\nexcept SystemExit: pass\n"
    assert python(f"{code}assert 'argcomplete' not in sys.modules").returncode == 0


@pytest.mark.parametrize("argv", [["report", "typo"], ["compare", "typo", "x"], ["report", "results"], ["rn"]])
def test_a_typing_error_is_answered_before_anything_heavy_is_imported(argv):
    code = f"import sys; from peftbench import cli\ntry: code = cli.main({argv!r})\n"
    code += "except SystemExit as e: code = e.code\n"
    done = python(f"{code}print(code, [name for name in {LIBRARIES!r} if name in sys.modules])")
    assert done.stdout == "2 []\n", done.stderr
