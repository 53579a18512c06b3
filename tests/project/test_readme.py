"""The documents are true: generated parts are up to date, and every name, key, link and file in them exists."""

from __future__ import annotations

import importlib
import inspect
import re

import pytest

import peftbench
from peftbench import suite
from peftbench.methods import METHODS
from peftbench.methods.record import shown
from peftbench.models.precision import PRECISIONS
from peftbench.records import Task
from peftbench.suite import meanings, schema, watch
from peftbench.tasks import HEADLINES, reach
from peftbench.tasks.templates import CHUNK_CHARACTERS, TEMPLATES
from tests.support.rooms import ROOMS
from tools.docs import cli_document, python_document, reference, suite_document

README = (reference.ROOT / "README.md").read_text()
CLI, SUITE = (reference.ROOT / "docs" / name for name in ("cli.md", "suite.md"))
PACKAGE = reference.ROOT / "peftbench"
LINK = re.compile(r"\]\(([^)]+)\)")
OUTPUT = ("adapters", "logs", "search", "set_aside")
"""Folders of a results folder, which exist after a run."""


@pytest.mark.parametrize("path", reference.PARTS, ids=lambda path: path.name)
def test_the_generated_parts_of_a_document_are_up_to_date(path):
    assert reference.renewed(path) == path.read_text(), "run: python -m tools.docs.reference"


def test_the_picture_shows_the_page_of_the_committed_results():
    stored = reference.json.loads(reference.DIGEST.read_text())
    assert reference.page_digest() == stored, "run: python -m tools.docs.reference"
    assert reference.PICTURE.stat().st_size < 1_000_000


def test_every_method_precision_suite_and_command_is_documented():
    assert {"base", "full", "lora", "peft"} <= set(METHODS.own)
    assert len(PRECISIONS) == 16
    assert set(cli_document.commands()) == {
        *("init", "run", "plan", "answer", "report", "compare", "history", "import", "export", "list")
    }
    assert {"quickstart", "peft_zoo"} <= set(suite.names())
    for name in (*suite.names(), *(f"peftbench {command}" for command in cli_document.commands())):
        published = f"| `{name}` |" in (reference.ROOT / "docs" / "published_suites.md").read_text()
        assert name in README or published, name
    methods = (reference.ROOT / "docs" / "methods.md").read_text()
    for name in (*METHODS.own, *PRECISIONS):
        assert f"| {name} |" in methods, name


def test_every_command_has_its_table_in_the_document_of_the_command_line():
    assert set(cli_document.commands()) <= set(reference.PARTS[CLI])
    for name, parser in cli_document.commands().items():
        table = cli_document.command(name)
        options = [option for action in parser._actions for option in action.option_strings]
        assert len(options) >= 2
        for option in set(options) - {"-h", "--help"}:
            assert option in table, option


def test_every_public_function_is_in_the_document_of_the_python_interface():
    assert {*python_document.FUNCTIONS, "UserError"} == set(peftbench.__all__)
    for name in python_document.FUNCTIONS:
        parameters = inspect.signature(getattr(peftbench, name)).parameters
        assert parameters
        for parameter in parameters:
            assert f"- `{parameter}`: " in python_document.function(name), parameter


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 160
    table = re.search(r"<!-- quickstart table.*?```\n(.*?)```", README, re.DOTALL)[1].splitlines()
    assert max(map(len, table)) <= 100
    assert len(table) - max(i for i, line in enumerate(table) if line.startswith("─")) - 1 <= 3


def test_the_readmes_suite_is_a_suite_that_loads(tmp_path):
    block = re.search(r"```yaml\n(.*?)```", README, re.DOTALL)[1]
    (tmp_path / "mine.yaml").write_text(block)
    environment = {"PEFTBENCH_BASE": "nano", "PEFTBENCH_TRAIN": "train.csv", "PEFTBENCH_TEST": "test.csv"}
    trials = suite.expand(suite.load(tmp_path / "mine.yaml", environ=environment), "cpu")
    assert len({t.cell for t in trials}) == 1 + 1 + 9 + 1


@pytest.mark.parametrize("name", suite_document.BLOCKS)
def test_every_key_of_a_suite_has_a_meaning_and_a_line_in_the_document(name):
    model, texts = suite_document.BLOCKS[name]
    assert set(texts) == set(model.model_fields)
    assert {"top level": "suite"}.get(name, name) + " keys" in reference.PARTS[SUITE]
    for key, field in model.model_fields.items():
        (line,) = re.findall(rf"^\| `{key}` \| (.+) \| (.+) \| (.+) \|$", suite_document.block(name), re.MULTILINE)
        assert line[2] == texts[key].text.replace("|", "\\|")
        if texts[key].default is None and isinstance(field.default, int | float | str):
            assert line[1] == shown(field.default), key


def test_every_block_of_the_schema_is_in_the_document():
    known = (*vars(schema).values(), *vars(watch).values())
    models = {m for m in known if isinstance(m, type) and issubclass(m, schema.Strict)}
    assert models - {schema.Strict} == {model for model, _ in suite_document.BLOCKS.values()}


def test_every_training_setting_is_in_the_document_with_its_default():
    rows = re.findall(r"^\| `(\w+)` \| .+ \| (.+) \| (.+) \|$", suite_document.train(), re.MULTILINE)
    defaults = {key: default for key, default, meaning in rows if meaning.strip()}
    assert set(defaults) == {"data", *schema.TRAIN}
    for name, setting in schema.TRAIN.items():
        assert defaults[name] == ("–" if setting.default is None else shown(setting.default)), name


def test_defaults_that_the_schema_does_not_hold_are_those_of_the_records():
    assert meanings.TASK["max_new_tokens"].default.startswith(f"{Task.max_new_tokens};")
    assert meanings.TASK["chunk_characters"].default == str(CHUNK_CHARACTERS)
    assert reach.default_stops(Task("", ""), []) == Task.stop == ("\n",)
    assert schema.RetentionBlock.model_fields["separator"].default == "\n\n"


def test_names_in_the_meanings_are_those_of_the_tables():
    named = re.findall(r"`(\w+)`", meanings.TASK["template"].text)
    assert set(named) - {"kind", "prompt", "target"} == set(TEMPLATES)
    assert set(re.findall(r"`(\w+)`", meanings.TASK["kind"].text)) == set(HEADLINES)


def test_the_readmes_suite_has_the_sequence_length_of_the_shipped_one():
    shipped = (reference.ROOT / "suites" / "real_small.yaml").read_text()
    block = re.search(r"```yaml\n(.*?)```", README, re.DOTALL)[1]
    lengths = [re.findall(r"sequence_length: (\d+)", text) for text in (shipped, block)]
    assert lengths[0] == lengths[1] != []


def test_every_name_in_a_results_folder_is_in_its_readme():
    text = (reference.ROOT / "results" / "README.md").read_text()
    for name in ("trials", "steps", "examples", "grid.json", "logs/KEY.log", "adapters/KEY"):
        assert f"`{name}" in text, name


DOCUMENTS = [
    path
    for folder, pattern in ((".", "*.md"), ("docs", "**/*.md"), ("reports", "**/*.md"), ("results", "*.md"))
    for path in sorted((reference.ROOT / folder).glob(pattern))
    if path.parent.name != "nano"
]


def anchors(text: str) -> set[str]:
    """The names by which a document's headings can be linked to, as GitHub makes them."""
    heads = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(reference.ROOT)))
def test_the_links_of_a_document_lead_somewhere(document):
    for target in re.findall(r"\]\(([^)]+)\)", document.read_text()):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        found = document.parent / path if path else document
        assert found.exists(), target
        assert not anchor or anchor in anchors(found.read_text()), target


def test_enough_documents_are_read_and_each_page_is_linked_to():
    assert len(DOCUMENTS) >= 45
    linked = {(d.parent / t.partition("#")[0]).resolve() for d in DOCUMENTS for t in LINK.findall(d.read_text())}
    assert [str(d) for d in DOCUMENTS if d.name != "README.md" and d.resolve() not in linked] == []


NOW = [path for path in DOCUMENTS if path.name != "CHANGELOG.md"]


@pytest.mark.parametrize("document", NOW, ids=lambda path: str(path.relative_to(reference.ROOT)))
def test_the_files_that_a_document_names_exist(document):
    """A path in backquotes starts at the root of the repository or at the package; NAME stands for any name."""
    for name in re.findall(r"`((?:\w+/)+(?:\w+\.(?:py|yaml|json|j2|md|css)|))`", document.read_text()):
        parts = name.rstrip("/").split("/")
        if parts[0] in OUTPUT or any(part.partition(".")[0].isupper() for part in parts):
            continue
        if parts[0] == "results" and parts[-1] in suite.names():  # a folder that a run makes
            continue
        assert any((root / name).exists() for root in (reference.ROOT, PACKAGE, document.parent)), name


@pytest.mark.parametrize("document", NOW, ids=lambda path: str(path.relative_to(reference.ROOT)))
def test_the_modules_that_a_document_names_exist(document):
    for name in re.findall(r"`((?:peftbench|tools)(?:\.\w+)+)[`(]", document.read_text()):
        module, found = None, name.split(".")
        if len(found) == 2 and found[1] in peftbench.__all__:
            continue
        for end in range(len(found), 0, -1):
            path = reference.ROOT.joinpath(*found[:end])
            if path.with_suffix(".py").is_file() or (path / "__init__.py").is_file():
                module = ".".join(found[:end])
                break
        assert module not in (None, "peftbench", "tools"), name
        value = importlib.import_module(module)
        for part in found[end:]:
            value = getattr(value, part)


def test_every_design_page_is_in_the_index_and_names_its_code_and_its_tests():
    folder = reference.ROOT / "docs" / "design"
    pages = [path for path in folder.glob("*.md") if path.name != "README.md"]
    assert len(pages) >= 25
    index = (folder / "README.md").read_text()
    for path in pages:
        text = path.read_text()
        assert f"[{text.splitlines()[0].removeprefix('# ')}]({path.name})" in index
        assert re.findall(r"^## (.+)$", text, re.MULTILINE) == ["Problem", "Decision", "Alternatives", "Where"]
        assert re.search(r"^Code: `peftbench/", text, re.MULTILINE), path.name
        assert re.search(r"^Checked by: `(tests|tools)/", text, re.MULTILINE), path.name


def test_the_architecture_names_the_package_folders_in_their_order():
    text = (reference.ROOT / "ARCHITECTURE.md").read_text()
    named = re.findall(r"^\| `(\w+)/` \|", text, re.MULTILINE)
    assert named == [room for room, _ in ROOMS]
