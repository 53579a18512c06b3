"""How the base is built, on the page: where the measured files are still there, else why it is not shown."""

import dataclasses
import json
import shutil

import pytest

from peftbench.models import builtin, find
from peftbench.models.anatomy import child
from peftbench.report import collect
from peftbench.report import page as report_page
from peftbench.report.derived import anatomy
from peftbench.report.notes import anatomy as words
from tests.support import tiny_base
from tests.support.page_data import PageData
from tests.support.results_factory import make_result, store


def results_on(folder, base="nano", digest=None, command="peftbench run x", **settings):
    """Return the results of a trial that says which base model it measured."""
    made = make_result()
    examples = tuple(dataclasses.replace(e, prompt="the sky is", target="blue") for e in made.examples)
    row = dataclasses.replace(
        made.row,
        base=base,
        base_sha256=digest,
        settings_json=json.dumps({"base": {"source": base, **settings}, "evaluate": ["judge"]}),
        environment_json=json.dumps({"command": command}),
    )
    return collect.collect(store(folder, dataclasses.replace(made, row=row, examples=examples)))


@pytest.fixture
def tiny(tmp_path):
    return tiny_base.make(tmp_path / "models" / "tiny")


def test_the_built_in_base_is_shown_with_its_tokens_per_word(tmp_path):
    digest = find.base_fingerprint(builtin.folder("nano"))
    results = results_on(tmp_path / "r", digest=digest)
    (found,) = anatomy.start(results).finish()
    assert (found.base, found.reason, found.found["family"]) == ("nano", "", "llama")
    assert 1 < found.overall == found.by_task["judge"] < 4
    core = PageData(report_page.html(results)).core
    (one,) = core["anatomy"]
    facts = {title: text for title, text, _ in one["facts"]}
    assert list(facts) == [
        *("model", "tokenizer", "tokens per word", "positions", "attention", "normalization", "MLP", "experts"),
        *("layer", "head", "parameters"),
    ]
    assert facts["parameters"] == "984,192"
    assert facts["tokens per word"].endswith(" on judge")
    assert sum(count for _, count, _ in one["parts"]) == 984_192


def test_files_that_are_read_once_are_not_read_again(tmp_path, monkeypatch):
    digest = find.base_fingerprint(builtin.folder("nano"))
    results = results_on(tmp_path / "r", digest=digest)
    anatomy.start(results).finish()
    monkeypatch.setattr(child, "start", lambda folder: pytest.fail("read again"))
    assert anatomy.start(results).finish()[0].reason == ""


@pytest.mark.parametrize("where", ["command", "suite", "beside the suite"])
def test_a_folder_is_found_where_command_or_suite_name_it(tmp_path, tiny, where, monkeypatch):
    monkeypatch.setattr(child, "start", lambda folder: f"asked for {folder}")
    suite = tmp_path / "models" / "s.yaml"
    suite.write_text(f"base: {tiny}\n" if where == "suite" else "base: {folder: tiny}\n")
    command = f"peftbench run x --set base={tiny}" if where == "command" else f"peftbench run {suite}"
    results = results_on(tmp_path / "r", "tiny", find.base_fingerprint(tiny), command)
    assert f"asked for {tiny.name}" in anatomy.start(results).finish()[0].reason


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"digest": None}, "the rows do not say which files"),
        ({"digest": "0" * 64}, "are not the measured ones"),
        ({"digest": "0" * 64, "trust_remote_code": True}, "code of its own, which is not run"),
        ({"digest": "0" * 64, "base": "gone"}, "not on this machine"),
        ({"digest": "0" * 64, "base": "no/such-model"}, "not on this machine"),
    ],
)
def test_what_is_not_shown_has_a_sentence(tmp_path, change, reason):
    results = results_on(tmp_path / "r", **change)
    (found,) = anatomy.start(results).finish()
    assert (found.found, found.overall) == (None, None)
    assert reason in found.reason
    (one,) = PageData(report_page.html(results)).core["anatomy"]
    assert one["reason"].startswith(f"How {found.base} is built is not shown: ")
    assert one["reason"].endswith(".")


def test_paths_of_this_machine_are_not_shown(tmp_path, tiny, monkeypatch):
    monkeypatch.setattr(child, "start", lambda folder: f"{folder}/config.json: no such family")
    command = f"peftbench run x --set base={tiny}"
    results = results_on(tmp_path / "r", "tiny", find.base_fingerprint(tiny), command)
    assert anatomy.start(results).finish()[0].reason == "it could not be read: config.json: no such family"
    snapshot = tmp_path / "models--some--model" / "snapshots" / "0123"
    assert anatomy._named("some/model", snapshot) == "some/model"
    monkeypatch.chdir(tmp_path)
    assert anatomy._named("model", tmp_path / "my model") == "'my model'"


def test_the_hash_of_files_is_kept_until_they_change(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    asked = []
    monkeypatch.setattr(find, "base_fingerprint", lambda folder: asked.append(folder) or "a" * 64)
    (tmp_path / "base").mkdir()
    for text in ("{}", "{}", "{ }"):
        if not asked or text != "{}":
            (tmp_path / "base" / "config.json").write_text(text)
        assert anatomy._hash(tmp_path / "base", anatomy._stamp(tmp_path / "base")) == "a" * 64
    assert len(asked) == 2
    for kept in (tmp_path / "cache" / "peftbench" / "bases").iterdir():
        kept.write_text("damaged")
    assert anatomy._hash(tmp_path / "base", anatomy._stamp(tmp_path / "base")) == "a" * 64
    assert len(asked) == 3


def test_large_files_are_not_read(tmp_path, tiny, monkeypatch):
    monkeypatch.setattr(anatomy, "MOST_BYTES", 1000)
    command = f"peftbench run x --set base={tiny}"
    (found,) = anatomy.start(results_on(tmp_path / "r", "tiny", "0" * 64, command)).finish()
    assert f"too large to make sure for a page that they are the measured ones; `peftbench list base {tiny}`" in (
        found.reason
    )


def test_a_base_that_cannot_be_built_is_a_sentence_too(tmp_path, tiny):
    (tiny / "config.json").write_text('{"model_type": "t5"}')
    results = results_on(tmp_path / "r", "tiny", find.base_fingerprint(tiny), f"peftbench run x --set base={tiny}")
    (found,) = anatomy.start(results).finish()
    assert found.reason.startswith("it could not be read: base: t5 is an encoder-decoder model")


def test_without_a_tokenizer_file_tokens_per_word_are_not_known(tmp_path, tiny):
    (tiny / "tokenizer.json").unlink()
    results = results_on(tmp_path / "r", "tiny", find.base_fingerprint(tiny), f"peftbench run x --set base={tiny}")
    assert anatomy._words(results, "tiny", tiny) == {}
    assert words.tokens_per_word(None, {}) == words.UNKNOWN


@pytest.mark.parametrize("argv", [["nano"], ["nano", "--json"], ["mixtral-8x7b"]])
def test_the_command_lists_a_base(command, argv):
    code, out, _ = command("list", "base", *argv)
    assert code == 0
    if "--json" in argv:
        found = json.loads(out)
        assert (found["base"], found["attention"]["kind"], found["experts"], found["tokens_per_word"]) == (
            "nano",
            "MHA",
            None,
            None,
        )
    else:
        assert {
            line.split("  ")[1].strip() for line in out.splitlines() if line.startswith("  ") and line[2] != " "
        } <= {*words.MEANINGS}
        assert ("8 a layer, 2 read each token" in out) == (argv == ["mixtral-8x7b"])


def test_a_folder_is_listed_without_its_weights(command, tiny):
    shutil.copy(tiny / "config.json", tiny.parent / "config.json")
    code, out, _ = command("list", "base", str(tiny.parent))
    assert (code, "tokenizer      none in the folder" in out) == (0, True)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["base"], "list base: which one? give a folder, a hub id, a built-in base (nano) or a shape"),
        (["base", "nan"], "did you mean 'nano'?"),
        (["tasks", "--json"], "--json: allowed with `list base` only"),
        (["tasks", "judge"], "`list base` and `list published` accept a name; given: list tasks judge"),
    ],
)
def test_wrong_requests_are_answered(command, argv, message):
    code, out, err = command("list", *argv)
    assert (code, out) == (2, "")
    assert message in err


def test_an_encoder_is_refused_with_its_reason(command, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    code, out, err = command("list", "base", str(tmp_path))
    assert (code, out) == (2, "")
    assert f"{tmp_path}: bert reads in both directions" in err
