"""Every command that a document or the head of a suite shows is a real one: it parses, and the cheap ones are run."""

from __future__ import annotations

import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest

from peftbench import cli, suite
from peftbench.results.remote import is_url
from peftbench.runner.executor import lifeline
from tools.docs import cli_document, reference

ROOT = reference.ROOT
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "reports" / "README.md",
    ROOT / "reports" / "reference" / "nano.md",
    ROOT / "results" / "README.md",
    ROOT / "tests" / "outside_method" / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
PROGRAMS = ("peftbench", "make", "python", "pip", "pytest", "git", "ruff", "mypy")
RUN = ("list", "plan", "report", "compare")
"""Commands of peftbench that train nothing."""
TARGETS = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
VARIABLES = set(re.findall(r"^(\w+) [?:]=", (ROOT / "Makefile").read_text(), re.MULTILINE))


def without_generated_parts(text: str) -> str:
    return re.sub(r"<!-- ([\w ]+): made by.*?<!-- /\1 -->", "", text, flags=re.DOTALL)


def blocks(path: Path) -> list[list[str]]:
    """The words of each line of a document's fenced blocks without a language, which hold commands only."""
    text = without_generated_parts(path.read_text())
    found = re.findall(r"^```(\w*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return [shlex.split(line) for language, block in found if not language for line in block.splitlines() if line]


def heads() -> list[list[str]]:
    """The words of each command in the comments of a suite file."""
    lines = [line.strip("# ") for path in (ROOT / "suites").glob("*.yaml") for line in path.read_text().splitlines()]
    return [shlex.split(line) for line in lines if re.match(r"([A-Z_]+=\S+ )*peftbench (run|plan) ", line)]


def spans(path: Path) -> list[list[str]]:
    """The words of each command in a document's running text, and in the markers of generated parts."""
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)
    found = re.findall(r"`((?:peftbench|make|pytest|python -m) [^`]*)`", text.replace("\n", " "))
    found += re.findall(r"made by (python -m [\w.]+)", text)
    return [shlex.split(span) for span in found]


def program(words: list[str]) -> list[str]:
    """A command without the environment variables before it and the folder of an environment."""
    while re.match(r"[A-Z_]+=", words[0]):
        words = words[1:]
    return [words[0].removeprefix(".venv/bin/"), *words[1:]]


BLOCKS = [program(words) for path in DOCUMENTS for words in blocks(path)]
SPANS = [program(words) for path in DOCUMENTS for words in spans(path)]
SHOWN = [words[1:] for words in [*BLOCKS, *map(program, heads())] if words[0] == "peftbench"]

WRITTEN = {words[words.index("-o") + 1] for words in SHOWN if words[0] == "init" and "-o" in words}
"""Suites that a shown `peftbench init` writes."""


def test_enough_commands_are_found():
    assert len(DOCUMENTS) >= 40
    assert len(SHOWN) >= 35
    assert len(SPANS) >= 40
    reading = {"plan", "answer", "report", "compare", "history", "import", "export", "list"}
    assert {words[0] for words in SHOWN} == {"init", "run"} | reading
    assert {words[0] for words in BLOCKS} <= set(PROGRAMS)


@pytest.mark.parametrize("words", SHOWN, ids=" ".join)
def test_a_shown_command_parses_and_its_suite_or_results_exist(words, monkeypatch):
    monkeypatch.chdir(ROOT)
    arguments = cli.parser().parse_args(words)
    if words[0] in ("run", "plan") and arguments.suite not in WRITTEN:
        assert suite.find(arguments.suite).is_file()
    given = [getattr(arguments, name, None) for name in ("results", "old", "new")]
    folders = [folder for value in given for folder in (value if isinstance(value, list) else [value])]
    for folder in folders if words[0] in ("report", "compare") else ():
        if folder and folder.startswith("nights"):  # what the documented nights are called
            continue
        made = folder and Path(folder).parent == Path("results") and Path(folder).name in suite.names()
        assert folder is None or made or is_url(folder) or Path(folder).is_dir(), folder


def can_be_run(words: list[str]) -> bool:
    committed = all("results/reference/" in word for word in words if word.startswith(("results/", "nights")))
    committed &= not any(map(is_url, words))
    return words[0] in RUN and committed and "--memory" not in words and WRITTEN.isdisjoint(words)


CHEAP = [list(words) for words in dict.fromkeys(tuple(words) for words in SHOWN if can_be_run(words))]


def test_enough_commands_are_run():
    assert len(CHEAP) >= 8
    assert {words[0] for words in CHEAP} == set(RUN)


@pytest.mark.parametrize("words", CHEAP, ids=" ".join)
def test_a_shown_command_that_trains_nothing_runs(words, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(ROOT)
    run = [str(tmp_path / Path(word).name) if word.startswith("reports/") else word for word in words]
    code = cli.main(run)
    assert code in ((0, 1) if words[0] == "compare" else (0,))  # 1: something regressed, as the document says
    assert len(capsys.readouterr().out.splitlines()) > (0 if "-o" in words else 3)


def test_every_make_target_and_variable_that_is_named_exists():
    named = [words for words in [*BLOCKS, *SPANS] if words[0] == "make"]
    assert len(named) >= 10
    assert {"quickstart", "test", "bench", "reference", "smoke"} <= {words[1] for words in named} <= TARGETS
    for words in named:
        settings = dict(word.split("=", 1) for word in words[2:])
        assert set(settings) <= VARIABLES, words
        for run in settings.get("RUNS", "").split():
            assert run in (*reference.RUNS, "precisions", "all", "NAME"), words


@pytest.mark.filterwarnings("ignore:.*found in sys.modules")
@pytest.mark.parametrize(
    "name", sorted({words[2] for words in [*BLOCKS, *SPANS] if words[:2] == ["python", "-m"] and words[2] != "pytest"})
)
def test_every_module_that_is_named_answers_help(name, monkeypatch, capsys):
    if name in ("venv", "pip"):
        return

    def tied(*_):
        raise AssertionError("help ties this process to its parent")

    monkeypatch.setattr(lifeline, "die_with_parent", tied)
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(name, run_name="__main__")
    assert ended.value.code == 0
    assert "usage:" in capsys.readouterr().out


def test_every_test_file_that_is_named_exists():
    files = [word for words in [*BLOCKS, *SPANS] if "pytest" in words for word in words if word.startswith("tests/")]
    assert len(files) >= 2
    assert [file for file in files if not (ROOT / file).exists()] == []


def test_every_command_in_the_text_has_the_name_and_the_options_of_a_real_one():
    commands = cli_document.commands()
    for words in SPANS:
        if words[0] != "peftbench" or words[1] in ("--help", "--version", "COMMAND"):
            continue
        assert words[1] in commands, words
        options = {option for action in commands[words[1]]._actions for option in action.option_strings}
        assert {word for word in words if word.startswith("-")} <= options, words
