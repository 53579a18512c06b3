"""A trial's key changes with everything that decides its numbers, and with nothing else. Where bases come from."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from types import MappingProxyType

import pytest

from peftbench import suite
from peftbench.errors import UserError
from peftbench.models import find
from peftbench.records import Base, Devices, Evaluation, Job, Phase, Retention, Status, Task, Training, Trial
from peftbench.runner import prepare, rows
from peftbench.suite import trial_key
from peftbench.tasks import read
from tests.support.trials import TRAINING

ROOT = Path(__file__).parents[2]
TASK = Task(
    "colour", "choice", files={"test": "/data/a.csv"}, prompt="{{ a }}", target="{{ b }}", choices=("red", "green")
)
TRIAL = Trial(
    suite="test",
    cell="lora r=4 fp32",
    base=Base("/models/tiny"),
    method="lora",
    precision="fp32",
    rank=4,
    options={"alpha": 8.0, "dropout": 0.0, "target_modules": ["q_proj", "v_proj"]},
    seed=0,
    tasks=(TASK,),
    evaluate=("colour",),
    training=TRAINING,
    retention=Retention("/data/a.txt"),
    evaluation=Evaluation(batch_size=4, max_length=48, split="test"),
    device="cpu",
    threads=1,
)
NAMES = {
    *("suite", "cell", "timeout_seconds", "phase_timeouts", "checkpoint_every_seconds", "retention", "unsupported"),
    *("unsupported_reason", "named_settings", "candidate_of", "learning_rate_source", "defaults"),
}
"""Fields of a trial that decide no number: how it is called, how long it may take, why it is not run. Of retention the
key has the hash of the texts."""
LAYOUT = ("encoding", "delimiter", "quoting")
"""How files are read; the texts are in the data's hash."""
PLACES = {
    "Base": {"source", "revision"},
    "Task": {"files", "dataset", "config", "revision", "splits", "lm_eval", *LAYOUT},
}
"""Fields that say where content is; the content itself is in the key."""


def key(trial: Trial = TRIAL, base: str = "b" * 64, data: str = "d" * 64, text: str | None = None) -> str:
    return trial_key.key(trial, base, data, text)


def changed(value):
    """Another value of the same kind."""
    if dataclasses.is_dataclass(value) and not isinstance(value, Retention):
        first = fields(value)[-1].name
        return replace(value, **{first: changed(getattr(value, first))})
    match value:
        case None:
            return 7
        case Retention():
            return replace(value, file="b.txt")
        case bool():
            return not value
        case int() | float():
            return value + 1
        case str():
            return value + "x"
        case tuple():
            return (*value[:-1], changed(value[-1])) if value else ("x",)
        case list():
            return [*value, "x"]
        case dict() | MappingProxyType():
            return {**value, "x": "y"}
    raise AssertionError(f"no other value of {value!r}: extend changed()")


def field_names(kind) -> list[str]:
    left_out = PLACES.get(kind.__name__, set())
    return [f.name for f in fields(kind) if f.name not in left_out]


def test_the_key_is_pinned():
    # Another key means that every stored result is run again. Where numbers move too, raise PROTOCOL.
    assert key() == "b32851bac450de0c"


def test_the_key_is_short_and_made_of_hexadecimal_digits():
    assert len(key()) == 16
    assert set(key()) <= set("0123456789abcdef")


@pytest.mark.parametrize("name", [f.name for f in fields(Devices)])
def test_the_key_changes_with_several_devices_and_with_how_they_share_the_trial(name):
    several = replace(TRIAL, devices=Devices("fsdp2", 2))
    other = replace(several.devices, **{name: changed(getattr(several.devices, name))})
    assert len({key(), key(several), key(replace(several, devices=other))}) == 3


@pytest.mark.parametrize("name", sorted({f.name for f in fields(Trial)} - NAMES - {"devices"}))
def test_the_key_changes_with_every_field_of_a_trial(name):
    assert key(replace(TRIAL, **{name: changed(getattr(TRIAL, name))})) != key()


@pytest.mark.parametrize("name", field_names(Training))
def test_the_key_changes_with_every_training_setting(name):
    other = replace(TRAINING, **{name: changed(getattr(TRAINING, name))})
    assert key(replace(TRIAL, training=other)) != key()


@pytest.mark.parametrize("name", field_names(Evaluation))
def test_the_key_changes_with_every_setting_of_the_evaluation(name):
    other = replace(TRIAL.evaluation, **{name: changed(getattr(TRIAL.evaluation, name))})
    assert key(replace(TRIAL, evaluation=other)) != key()


@pytest.mark.parametrize("name", field_names(Task))
def test_the_key_changes_with_every_setting_of_a_task(name):
    other = replace(TASK, **{name: changed(getattr(TASK, name))})
    assert key(replace(TRIAL, tasks=(other,))) != key()


@pytest.mark.parametrize("name", field_names(Base))
def test_the_key_changes_with_what_the_base_may_do(name):
    other = replace(TRIAL.base, **{name: changed(getattr(TRIAL.base, name))})
    assert key(replace(TRIAL, base=other)) != key()


@pytest.mark.parametrize("name", TRIAL.options)
def test_the_key_changes_with_every_option_of_the_method(name):
    other = {**TRIAL.options, name: changed(TRIAL.options[name])}
    assert key(replace(TRIAL, options=other)) != key()


def test_the_key_changes_with_base_data_and_protocol(monkeypatch):
    found = {key(), key(base="c" * 64), key(data="e" * 64), key(replace(TRIAL, training=None)), key(text="e" * 64)}
    monkeypatch.setattr(trial_key, "PROTOCOL", trial_key.PROTOCOL + 1)
    found.add(key())
    assert len(found) == 6


@pytest.mark.parametrize("name", sorted(NAMES))
def test_the_key_does_not_change_with_names_and_time_limits(name):
    assert key(replace(TRIAL, **{name: changed(getattr(TRIAL, name))})) == key()


def test_a_setting_added_later_enters_settings_and_key_only_if_it_is_not_at_its_default():
    # else every trial that is stored would run again
    others = {
        "logits": "chunked",
        "attention": "eager",
        "offload": "activations",
        "compute": "fp8",
        "compile": "layers",
        "kernels": "liger",
    }
    assert set(trial_key.LATER) == set(others)
    for name, default in trial_key.LATER.items():
        assert getattr(TRAINING, name) == default
        assert name not in trial_key.settings(TRIAL)["train"]
        other = replace(TRIAL, training=replace(TRAINING, **{name: others[name]}))
        assert trial_key.settings(other)["train"][name] == others[name]


def test_the_key_does_not_change_with_places_and_the_order_of_options(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    other = replace(
        TRIAL,
        base=Base(str(tmp_path / "elsewhere"), revision="main"),
        tasks=(replace(TASK, files={}, dataset="someone/something", revision="main", splits={"test": "dev"}),),
        options=dict(reversed(TRIAL.options.items())),
    )
    assert key(other) == key()


def test_nothing_that_is_stored_names_a_folder_of_the_machine(tmp_path):
    base = tmp_path / "tiny"
    base.mkdir()
    local = replace(TRIAL, base=Base(str(base)), tasks=(replace(TASK, files={"test": str(tmp_path / "a.csv")}),))
    text = json.dumps(trial_key.settings(local), default=list)
    assert str(tmp_path) not in text
    assert '"tiny"' in text
    assert '"a.csv"' in text


def test_one_changed_example_in_a_data_file_is_another_key(tmp_path):
    path = tmp_path / "a.csv"
    trial = replace(TRIAL, tasks=(replace(TASK, files={"test": str(path)}),))
    found = []
    for text in ("a,b\nx,red\ny,green\n", "a,b\nx,red\ny,red\n", "a,b\nx,red\ny,green\n"):
        path.write_text(text)
        found.append(key(trial, data=read.fingerprint(trial.tasks)))
    assert found[0] == found[2] != found[1]


def test_the_key_follows_the_texts_of_retention_wherever_they_are(tmp_path):
    def keys(retention: str) -> set[str]:
        text = "base: nano\ntasks: [judge]\nseeds: 2\nmethods: {lora: }\nevaluate: {retention: %s}\n"
        (tmp_path / "s.yaml").write_text(text % retention)
        made = suite.expand(suite.load(tmp_path / "s.yaml"), "cpu")
        return {job.key for job in prepare.prepare(made, tmp_path / "out", 1, "peftbench run").jobs}

    (tmp_path / "a.txt").write_text("one\n\ntwo\n")
    (tmp_path / "b.jsonl").write_text('{"words": "one"}\n{"words": "two"}\n')
    (tmp_path / "c.txt").write_text("one\n\nthree\n")
    found = keys("{file: a.txt}")
    assert len(found) == 2
    assert keys("{file: b.jsonl, field: words}") == found
    assert keys("{file: c.txt}").isdisjoint(found)
    assert keys("false").isdisjoint(found)


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder that looks like a model to everything but a loader."""
    place = tmp_path / "models" / "tiny"
    place.mkdir(parents=True)
    for name in ("config.json", "tokenizer.json", "tokenizer.model", "merges.txt", "chat_template.jinja"):
        (place / name).write_text(f'{{"name": "{name}"}}')
    (place / "model.safetensors").write_bytes(bytes(1000))
    return place


def test_the_fingerprint_of_a_base_is_of_its_files_wherever_they_are(folder, tmp_path):
    here = find.base_fingerprint(folder)
    shutil.copytree(folder, tmp_path / "copy")
    assert find.base_fingerprint(tmp_path / "copy") == here
    linked = tmp_path / "linked"
    linked.mkdir()
    for path in folder.iterdir():
        (linked / path.name).symlink_to(path)
    assert find.base_fingerprint(linked) == here
    (folder / "README.md").write_text("words")
    (folder / ".gitattributes").write_text("words")
    (folder / "pictures").mkdir()
    assert find.base_fingerprint(folder) == here


@pytest.mark.parametrize(
    "name",
    ["model.safetensors", "config.json", "tokenizer.json", "tokenizer.model", "merges.txt", "chat_template.jinja"],
)
def test_one_byte_of_a_base_is_another_fingerprint(folder, name):
    before = find.base_fingerprint(folder)
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    assert find.base_fingerprint(folder) != before
    (folder / name).unlink()
    assert find.base_fingerprint(folder) != before


def test_a_file_more_is_another_fingerprint(folder):
    before = find.base_fingerprint(folder)
    (folder / "modeling_tiny.py").write_text("print()")
    assert find.base_fingerprint(folder) != before


def refused(source: str, **more) -> str:
    with pytest.raises(UserError) as raised:
        find.resolve_base(Base(source, **more))
    assert repr(source) in str(raised.value)
    return str(raised.value)


def test_a_folder_that_is_not_a_model_is_refused_with_what_it_holds(folder):
    weights = folder / "model.safetensors"
    weights.rename(folder / "pytorch_model.bin")
    assert "has no weights model.safetensors, nor model.safetensors.index.json (found: .bin" in refused(str(folder))
    weights.symlink_to(folder / "nowhere")
    assert "links to nothing, as after a broken download: model.safetensors" in refused(str(folder))
    weights.unlink()
    index = folder / "model.safetensors.index.json"
    index.write_text('{"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}')
    (folder / "1.safetensors").write_bytes(b"")
    assert "weights are missing: 2.safetensors (named in model.safetensors.index.json)" in refused(str(folder))
    (folder / "2.safetensors").write_bytes(b"")
    assert find.resolve_base(Base(str(folder))) == folder
    for broken in ("{", "[]", "5", '{"weight_map": 5}'):
        index.write_text(broken)
        assert "model.safetensors.index.json cannot be read" in refused(str(folder))
    (folder / "config.json").write_text("{")
    assert "config.json cannot be read" in refused(str(folder))
    (folder / "config.json").unlink()
    assert "no config.json" in refused(str(folder))


def test_an_unknown_base_model_is_refused_with_the_nearest_name(folder, monkeypatch):
    monkeypatch.chdir(folder.parents[1])
    assert "did you mean 'tiny'?" in refused(str(folder.parent / "tny"))
    assert "did you mean 'tiny'?" in refused("models/tny")
    assert "did you mean 'tiny'?" in refused("models/tiny !")
    assert "did you mean 'nano'?" in refused("nanno")
    assert "hub id like 'organisation/model'" in refused("nowhere/")
    assert "at revision 'v2': no such folder, and not in the hub's cache" in refused("nobody/nothing", revision="v2")


@pytest.mark.parametrize("source", ["gpt2", "org/tiny"])
def test_a_hub_id_has_a_slash_or_none(source, folder, monkeypatch):
    monkeypatch.setattr(find, "_from_hub", lambda base: folder)
    assert find.on_hub(Base(source))
    assert find.resolve_base(Base(source)) == folder


@pytest.mark.parametrize("source", ["a/b/c", "./gpt2", "~/gpt2", "/gpt2", "gpt2/", "my model", "nanoo"])
def test_what_looks_like_a_path_is_not_a_hub_id(source, monkeypatch):
    monkeypatch.setattr(find, "_from_hub", lambda _: pytest.fail("the hub was asked"))
    assert "nor a hub id like 'organisation/model' or 'gpt2'" in refused(source)


def test_the_message_of_a_failure_names_its_log_without_a_path():
    job = Job(TRIAL, "k1", "", "", "", "{}", 1, "", log="/home/x/results/mine/logs/k1.log")
    failed, why = rows.outcome(job, Status.ERROR, Phase.LOAD, "no /home/x/file")
    assert (failed.message, why.reason, why.log_file) == ("no file; log: logs/k1.log", "no file", "logs/k1.log")
    killed, why = rows.outcome(job, Status.KILLED, Phase.LOAD, "signal SIGKILL at /home/x/file")
    assert (killed.message, why.reason, why.log_file) == ("signal SIGKILL at file", "signal SIGKILL at file", None)
    ok, why = rows.outcome(job, Status.OK, None, None)
    assert (ok.message, why.reason, why.log_file) == (None, None, None)


def test_an_unsupported_cell_has_its_reason_apart_from_its_message():
    refused = replace(TRIAL, unsupported="x does not exist, because y", unsupported_reason="y")
    job = Job(refused, "k1", "", "", "", "{}", 1, "")
    row, why = rows.outcome(job, Status.UNSUPPORTED, Phase.PLAN, refused.unsupported)
    assert (row.message, why.reason) == ("x does not exist, because y", "y")


def test_the_row_of_a_candidate_keeps_its_cell_whatever_its_end():
    made = replace(TRIAL, cell="lora r=4 lr=0.1 fp32", named_settings="lr=0.1", candidate_of="lora r=4 fp32")
    job = Job(made, "k1", "", "", "", "{}", 1, "")
    row = rows.row(job, Status.ERROR).updated(*rows.outcome(job, Status.ERROR, Phase.LOAD, "no file"))
    assert (row.candidate_of, row.named_settings, row.reason) == ("lora r=4 fp32", "lr=0.1", "no file")


def hub_cache(place: Path, base: Path, repository: str, revisions: dict[str, str]) -> Path:
    """Lay out a model folder as the hub's cache does: blobs by content, snapshots of links, names of revisions."""
    top = place / f"models--{repository.replace('/', '--')}"
    for name, commit in revisions.items():
        (top / "refs").mkdir(parents=True, exist_ok=True)
        (top / "refs" / name).write_text(commit)
        snapshot = top / "snapshots" / commit
        snapshot.mkdir(parents=True)
        for path in base.iterdir():
            blob = top / "blobs" / hashlib.sha256(path.read_bytes()).hexdigest()
            blob.parent.mkdir(exist_ok=True)
            shutil.copyfile(path, blob)
            (snapshot / path.name).symlink_to(os.path.relpath(blob, snapshot))
    return place


LOADING = """
import json, sys
from peftbench.models import find, load
from peftbench.errors import UserError
from peftbench.models.precision import PRECISIONS
from peftbench.records import Base

found = {}
for revision in (None, "main", "v2", "c" * 40):
    folder = find.resolve_base(Base("org/tiny", revision=revision))
    loaded = load.load(folder, PRECISIONS["fp32"], False, True, device="cpu", trust_remote_code=False)
    tokens = loaded.tokenizer("the sky").input_ids
    found[str(revision)] = [find.base_fingerprint(folder), loaded.parameters, tokens, folder.name]
for source, revision in (("org/tny", None), ("org/tiny", "v3")):
    try:
        find.resolve_base(Base(source, revision=revision))
    except UserError as error:
        found[f"{source} {revision}"] = str(error)
print(json.dumps(found))
"""


def test_a_hub_id_is_loaded_offline_from_the_cache(tiny, tmp_path):
    second = tmp_path / "second"
    shutil.copytree(tiny, second)
    (second / "chat_template.jinja").write_text("{{ messages }}")
    cache = hub_cache(tmp_path / "hub", tiny, "org/tiny", {"main": "a" * 40})
    hub_cache(cache, second, "org/tiny", {"v2": "c" * 40})
    done = subprocess.run(
        [sys.executable, "-c", LOADING],
        env={**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    first, other = find.base_fingerprint(tiny), find.base_fingerprint(second)
    assert first != other
    assert [found[name][0] for name in ("None", "main", "v2", "c" * 40)] == [first, first, other, other]
    assert [found[name][3] for name in ("main", "v2")] == ["a" * 40, "c" * 40]
    from transformers import AutoTokenizer

    parameters, tokens = found["main"][1:3]
    assert 50_000 < parameters < 200_000
    assert tokens == AutoTokenizer.from_pretrained(tiny)("the sky").input_ids
    assert found["org/tny None"].startswith("base 'org/tny': no such folder, and not in the hub's cache (HF_HUB_OFF")
    assert found["org/tiny v3"].startswith("base 'org/tiny' at revision 'v3': no such folder, and not in the hub's")
