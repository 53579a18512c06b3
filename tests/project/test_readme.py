"""What the project says of itself is true: generated parts are fresh, names and commands are there."""

from __future__ import annotations

import re

import matplotlib
import pytest

from peftbench import cli, suite
from peftbench.methods import METHODS
from peftbench.methods.record import shown
from peftbench.models.precision import PRECISIONS
from peftbench.records import Task
from peftbench.suite import schema
from tests.support.rooms import ROOMS
from tools.docs import reference

README = (reference.ROOT / "README.md").read_text()


@pytest.mark.parametrize("path", reference.PARTS, ids=lambda path: path.name)
def test_the_generated_parts_of_the_documents_are_fresh(path):
    assert reference.renewed(path) == path.read_text(), "run: python -m tools.docs.reference"


def test_the_picture_is_of_the_page_that_the_committed_result_gives():
    stored = reference.json.loads(reference.DIGEST.read_text())
    if stored["matplotlib"] != matplotlib.__version__:
        pytest.skip(f"the picture was drawn by matplotlib {stored['matplotlib']}")
    assert reference.page_digest() == stored, "run: python -m tools.docs.reference"
    assert reference.PICTURE.stat().st_size < 1_000_000


def test_every_method_precision_suite_and_command_is_in_the_readme():
    assert {"base", "full", "lora", "peft"} <= set(METHODS.own)
    assert len(PRECISIONS) == 11
    commands = re.findall(r"\n    (\w+)  ", cli.parser().format_help())
    assert set(commands) == {"run", "plan", "report", "compare", "list"}
    assert {"quickstart", "peft_zoo"} <= set(suite.names())
    for name in (*METHODS.own, *PRECISIONS, *suite.names(), *(f"peftbench {c}" for c in commands)):
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


def keys_of_the_readme(heading: str) -> dict[str, str]:
    """The keys of one of the tables of a suite's keys, each with its default."""
    found = {}
    for line in README.split(f"| {heading} | default |")[1].split("\n\n")[0].splitlines()[2:]:
        names, defaults, _ = (cell.strip() for cell in line.strip("|").split(" | "))
        keys = re.findall(r"`(\w+)`", names)
        each = defaults.split(", ")
        found |= dict(zip(keys, each if len(each) == len(keys) else [defaults] * len(keys), strict=True))
    return found


@pytest.mark.parametrize(
    ("heading", "model"),
    [("key", schema.SuiteFile), ("key of a task", schema.TaskBlock), ("key of `evaluate`", schema.EvaluateBlock)],
)
def test_every_key_of_a_suite_is_in_the_readme_with_its_default(heading, model):
    told = keys_of_the_readme(heading)
    assert set(told) == set(model.model_fields)
    for name, field in model.model_fields.items():
        if isinstance(field.default, int | float | str):
            assert told[name] == shown(field.default), name
        else:
            assert not told[name].isdecimal() or name == "max_new_tokens", name
    assert told.get("max_new_tokens", "32") == str(Task.max_new_tokens)


def test_every_training_setting_is_in_the_readme_with_its_default():
    told = keys_of_the_readme("key of `train`")
    assert set(told) == {"data", *schema.TRAIN}
    for name, setting in schema.TRAIN.items():
        assert told[name] == ("–" if setting.default is None else shown(setting.default)), name


def test_the_readmes_suite_cuts_no_question_that_the_shipped_one_does_not():
    shipped = (reference.ROOT / "suites" / "real_small.yaml").read_text()
    block = re.search(r"```yaml\n(.*?)```", README, re.DOTALL)[1]
    lengths = [re.findall(r"sequence_length: (\d+)", text) for text in (shipped, block)]
    assert lengths[0] == lengths[1] != []


def test_every_name_in_a_results_folder_is_in_its_readme():
    text = (reference.ROOT / "results" / "README.md").read_text()
    for name in ("trials", "steps", "examples", "grid.json", "logs/KEY.log", "adapters/KEY"):
        assert f"`{name}" in text, name


def test_the_links_of_the_documents_lead_somewhere():
    documents = [reference.ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CHANGELOG.md")]
    documents += (reference.ROOT / "docs").glob("*.md")
    assert len(documents) >= 4
    for document in documents:
        for target in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
            assert "://" in target or (document.parent / target).exists(), f"{document.name}: {target}"


def test_the_rooms_of_the_architecture_are_those_of_the_package_in_their_order():
    text = (reference.ROOT / "ARCHITECTURE.md").read_text()
    named = re.findall(r"^\| `(\w+)/` \|", text, re.MULTILINE)
    assert named == [room for room, _ in ROOMS]
