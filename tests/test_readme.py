"""What the project says of itself is true: generated parts are fresh, names and commands are there."""

from __future__ import annotations

import re

import matplotlib
import pytest
import reference

from peftbench import cli, suite
from peftbench.methods import METHODS
from peftbench.precision import PRECISIONS

README = reference.README.read_text()


def test_the_generated_parts_of_the_readme_are_fresh():
    assert reference.readme(README) == README, "run: python tests/reference.py"


def test_the_picture_is_of_the_page_that_the_committed_result_gives():
    stored = reference.json.loads(reference.DIGEST.read_text())
    if stored["matplotlib"] != matplotlib.__version__:
        pytest.skip(f"the picture was drawn by matplotlib {stored['matplotlib']}")
    assert reference.page_digest() == stored, "run: python tests/reference.py"
    assert reference.PICTURE.stat().st_size < 1_000_000


def test_every_method_precision_suite_and_command_is_in_the_readme():
    assert len(METHODS) >= 8
    assert len(PRECISIONS) == 8
    commands = re.findall(r"\n    (\w+)  ", cli.parser().format_help())
    assert set(commands) == {"run", "plan", "report", "compare", "list"}
    assert len(suite.names()) >= 2
    for name in (*METHODS, *PRECISIONS, *suite.names(), *(f"peftbench {c}" for c in commands)):
        assert name in README, name


def test_every_option_of_the_command_line_is_in_the_readme():
    options = set()
    for command in ("run", "plan", "report", "compare", "list"):
        with pytest.raises(SystemExit):
            cli.parser().parse_args([command, "--help"])
    for action in cli.parser()._subparsers._group_actions[0].choices.values():
        options |= {o for a in action._actions for o in a.option_strings if o.startswith("--")}
    for option in options - {"--help", "--output"}:
        assert option in README, option


def test_the_readmes_suite_is_a_suite_that_loads(tmp_path):
    block = re.search(r"```yaml\n(.*?)```", README, re.DOTALL)[1]
    (tmp_path / "mine.yaml").write_text(block)
    environment = {"PEFTBENCH_BASE": "nano", "PEFTBENCH_TRAIN": "train.csv", "PEFTBENCH_TEST": "test.csv"}
    trials = suite.expand(suite.load(tmp_path / "mine.yaml", environ=environment), "cpu")
    assert len({t.cell for t in trials}) == 1 + 1 + 9 + 1


def test_the_links_of_the_documents_lead_somewhere():
    for document in ("README.md", "ARCHITECTURE.md", "CHANGELOG.md"):
        text = (reference.ROOT / document).read_text()
        for target in re.findall(r"\]\(([^)#]+)\)", text):
            assert (reference.ROOT / target).exists(), f"{document}: {target}"


def test_every_module_of_the_architecture_exists_and_none_is_missing():
    text = (reference.ROOT / "ARCHITECTURE.md").read_text()
    package = reference.ROOT / "peftbench"
    named = set(re.findall(r"`(\w+)(?:/[\w*]*)?`", text.split("## Rooms")[1].split("## Decisions")[0]))
    rooms = {p.stem for p in package.iterdir() if p.suffix == ".py" or p.is_dir()} - {
        "__init__",
        "__main__",
        "__pycache__",
        "_suites",
    }
    assert rooms - named == set()
