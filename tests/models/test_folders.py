"""A folder that is no plain base model, or has malformed files, is refused in words; a hash covers what is loaded."""

from __future__ import annotations

import fnmatch
import json
import os
import shutil

import pytest

from peftbench.errors import UserError
from peftbench.models import files, find, here, stored
from peftbench.records import Base
from tests.support import weights


def refused(folder, resolve=find.resolve_base):
    with pytest.raises(UserError) as raised:
        resolve(Base(str(folder)))
    return str(raised.value)


@pytest.fixture
def model(tmp_path):
    """What has the names of a model's files."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "model.safetensors").write_bytes(bytes(100))
    return folder


ADAPTER = {"peft_type": "LORA", "base_model_name_or_path": "org/original"}


def test_an_adapter_beside_weights_is_refused_with_the_way_out(model):
    assert find.resolve_base(Base(str(model))) == model
    (model / "adapter_model.safetensors").write_bytes(bytes(100))
    assert find.resolve_base(Base(str(model))) == model  # without its config, transformers does not see it
    (model / "adapter_config.json").write_text(json.dumps(ADAPTER))
    for resolve in (find.resolve_base, find.config_folder, find.cached):
        message = refused(model, resolve)
        for part in ("an adapter beside them", "LORA", "'org/original'", "merge_and_unload", "to another folder"):
            assert part in message
    shards = {"weight_map": {"a": "1.safetensors"}}
    (model / "model.safetensors").rename(model / "1.safetensors")
    (model / "model.safetensors.index.json").write_text(json.dumps(shards))
    assert "an adapter beside them" in refused(model)


def test_a_load_puts_no_adapter_on(tiny, tmp_path):
    from peftbench.models import load
    from peftbench.models.precision import PRECISIONS

    folder = weights.copy(tiny, tmp_path / "base")
    (folder / "adapter_config.json").write_text(json.dumps(ADAPTER))
    with pytest.raises(UserError, match="an adapter beside them"):
        load.load(folder, PRECISIONS["fp32"], False, True, device="cpu", trust_remote_code=False)


@pytest.mark.parametrize("with_config", [True, False])
@pytest.mark.parametrize(
    ("config", "parts"),
    [
        (ADAPTER, ["LORA", "made for the base 'org/original'", "give that base", "merge_and_unload"]),
        ({"peft_type": "PROMPT_TUNING"}, ["PROMPT_TUNING", "a base", "is not named there"]),
        ({"peft_type": "BOTTLENECK", "library": "peftbench"}, ["BOTTLENECK"]),
        ([], ["adapter_config.json cannot be read: it holds a list"]),
    ],
)
def test_an_adapter_given_as_a_base_is_named(config, parts, with_config, tmp_path):
    if with_config:
        (tmp_path / "config.json").write_text("{}")
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    (tmp_path / "adapter_model.safetensors").write_bytes(bytes(100))
    for part in ("the folder is an adapter", *parts):
        assert part in refused(tmp_path)


def test_tuned_parts_saved_by_peftbench_are_named(tmp_path):
    (tmp_path / "partial_config.json").write_text("{}")
    assert "tuned parts of a base model, saved by peftbench" in refused(tmp_path)


@pytest.mark.parametrize(
    ("scheme", "words", "why"),
    [
        ({"quant_method": "gptq", "bits": 4, "group_size": 128}, "GPTQ, 4 bits, groups of 128", "in buffers, not in"),
        ({"quant_method": "awq", "w_bit": 4}, "AWQ, 4 bits", "in buffers, not in parameters"),
        ({"quant_method": "hqq"}, "HQQ", "no loader for its weights"),
        (
            {"quant_method": "hqq", "quant_config": {"weight_quant_params": {"nbits": 4, "group_size": 64}}},
            "HQQ, 4 bits, groups of 64",
            "leaves random ones in their place",
        ),
        ({"quant_method": "fp8"}, "fine-grained FP8", "without being asked"),
        ({"quant_method": "compressed-tensors"}, "compressed-tensors", "until the first forward pass"),
        ({"quant_method": "mxfp4"}, "MXFP4", "trains no base"),
        ({"quant_method": "quanto"}, "Quanto", "can neither save nor load its weights"),
        ({"quant_method": "aqlm"}, "AQLM", "has not been tried with it"),
        ({"quant_method": "brand_new"}, "brand_new", "has not been tried with it"),
        ({}, "no quant_method", "has not been tried with it"),
        ("int4", "'int4'", "has not been tried with it"),
    ],
)
def test_a_base_that_is_stored_quantized_in_an_unusable_way_is_refused_with_its_scheme(scheme, words, why, model):
    for where in ("quantization_config", "text_config"):
        value = scheme if where == "quantization_config" else {"quantization_config": scheme}
        (model / "config.json").write_text(json.dumps({where: value}))
        for resolve in (find.resolve_base, find.config_folder):
            message = refused(model, resolve)
            assert f"quantization_config in config.json: {words})" in message
            assert why in message
            assert ('dequantize_model("BASE", "COPY")' in message) == ("GPTQ" in words)
            assert "give the unquantized original, with precision nf4" in message
    (model / "config.json").write_text('{"quantization_config": null}')
    assert find.resolve_base(Base(str(model))) == model


@pytest.mark.parametrize(
    ("scheme", "words"),
    [
        ({"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, "nf4, 4 bits"),
        ({"quant_method": "bitsandbytes", "_load_in_4bit": True}, "fp4, 4 bits"),
        ({"load_in_8bit": True}, "8 bits"),
    ],
)
def test_a_base_that_bitsandbytes_has_stored_is_found_and_described(scheme, words, model):
    (model / "config.json").write_text(json.dumps({"quantization_config": scheme}))
    assert find.resolve_base(Base(str(model))) == model
    assert stored.scheme(files.read_mapping(model / "config.json")).words == f"bitsandbytes, {words}"
    (model / "config.json").write_text(json.dumps({"text_config": {"quantization_config": scheme}}))
    assert "transformers reads a quantization_config at the top level of config.json only" in refused(model)
    (model / "config.json").write_text(json.dumps({"quantization_config": {"quant_method": "bitsandbytes"}}))
    assert "its config says neither load_in_4bit nor load_in_8bit" in refused(model)


MALFORMED = {
    "a list": (b"[]", "it holds a list"),
    "a number": (b"5", "it holds a number"),
    "text": (b'"x"', "it holds a string"),
    "null": (b"null", "it holds null"),
    "latin": (b'{"a": "\xe9"}', "not UTF-8"),
    "deep": (b"[" * 200_000, "nested too deeply"),
    "deep mapping": (b'{"a":' * 200_000, "nested too deeply"),
    "empty": (b"", "not JSON"),
}


@pytest.mark.parametrize("case", MALFORMED)
@pytest.mark.parametrize("name", ["config.json", "model.safetensors.index.json"])
def test_a_malformed_file_is_refused_in_words(case, name, model):
    content, words = MALFORMED[case]
    if name != "config.json":
        (model / "model.safetensors").unlink()
    (model / name).write_bytes(content)
    message = refused(model)
    assert f"{name} cannot be read" in message
    assert words in message
    assert find.read_config(Base(str(model))) == ({"model_type": "llama"} if name != "config.json" else {})


@pytest.mark.parametrize(
    "source",
    ["x" * 5000, "a/" * 2500 + "a", "~nobody-here/model", "a\0b", "nowhere/\ud800", "x" * 300 + "/y", "a/" + "b" * 300],
)
def test_a_name_that_no_file_system_takes_is_refused_shortened(source):
    for resolve in (find.resolve_base, find.config_folder, find.on_hub):
        with pytest.raises(UserError) as raised:
            resolve(Base(source))
        assert len(str(raised.value)) < 1200
    assert find.read_config(Base(source)) == {}
    assert here.folder(Base(source)) is None
    with pytest.raises(UserError):
        find.resolve_base(Base(source, random_weights=True))


def index(folder, **places):
    (folder / "model.safetensors").unlink(missing_ok=True)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))


@pytest.mark.parametrize("name", ["../outside.safetensors", "/etc/passwd", "a/../../b.safetensors", "a\0b"])
def test_an_index_names_no_file_outside_the_folder(name, model):
    (model.parent / "outside.safetensors").write_bytes(bytes(10))
    index(model, a=name)
    assert "names weights outside the folder" in refused(model)


def test_a_byte_of_any_weight_that_is_loaded_changes_the_hash(model):
    (model / "shards").mkdir()
    (model / "shards" / "a.safetensors").write_bytes(bytes(100))
    alone = find.base_fingerprint(model)
    index(model, a="shards/a.safetensors")
    before = find.base_fingerprint(model)
    (model / "shards" / "a.safetensors").write_bytes(bytes(99) + b"x")
    assert len({alone, before, find.base_fingerprint(model)}) == 3
    (model / "shards" / "b.safetensors").write_bytes(bytes(100))
    after = find.base_fingerprint(model)
    (model / "shards" / "b.safetensors").write_bytes(bytes(50))
    assert find.base_fingerprint(model) == after  # it is not loaded
    (model / "config.json").write_text('{"transformers_weights": "shards/b.safetensors"}')
    assert find.base_fingerprint(model) != after
    (model / "config.json").write_text('{"transformers_weights": "../b.safetensors"}')
    assert "config.json names weights outside the folder" in refused(model)


def test_the_hash_follows_links_out_of_the_folder_as_in_the_hubs_cache(model):
    blobs = model.parent / "blobs"
    blobs.mkdir()
    (model / "shards").mkdir()
    (blobs / "abc").write_bytes(bytes(100))
    (model / "shards" / "a.safetensors").symlink_to(os.path.relpath(blobs / "abc", model / "shards"))
    index(model, a="shards/a.safetensors")
    assert find.resolve_base(Base(str(model))) == model
    before = find.base_fingerprint(model)
    (blobs / "abc").write_bytes(bytes(99) + b"x")
    assert find.base_fingerprint(model) != before


def test_code_in_subfolders_is_hashed_if_a_config_names_code(model):
    (model / "code").mkdir()
    (model / "code" / "layers.py").write_text("a = 1")
    before = find.base_fingerprint(model)
    (model / "code" / "layers.py").write_text("a = 2")
    assert find.base_fingerprint(model) == before
    (model / "config.json").write_text('{"auto_map": {"AutoModelForCausalLM": "modeling.Tiny"}}')
    before = find.base_fingerprint(model)
    (model / "code" / "layers.py").write_text("a = 3")
    assert find.base_fingerprint(model) != before


def test_code_that_generates_is_hashed(model):
    (model / "custom_generate").mkdir()
    (model / "custom_generate" / "generate.py").write_text("a = 1")
    before = find.base_fingerprint(model)
    (model / "custom_generate" / "generate.py").write_text("a = 2")
    assert find.base_fingerprint(model) != before


@pytest.mark.parametrize(
    ("name", "content", "key"),
    [
        ("config.json", {"auto_map": {"AutoModelForCausalLM": "org/code--modeling.Tiny"}}, "auto_map.AutoModelFor"),
        (
            "config.json",
            {"text_config": {"auto_map": {"AutoConfig": "org/code--modeling.Tiny"}}},
            "text_config.auto_map",
        ),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": [None, "org/code--modeling.Tiny"]}}, "auto_map.AutoT"),
    ],
)
def test_code_of_another_repository_is_refused_before_anything_of_it_runs(model, monkeypatch, name, content, key):
    from peftbench.models import configs, load
    from peftbench.models.precision import PRECISIONS

    (model / name).write_text(json.dumps({"model_type": "llama"} | content))
    trusted, plain = (Base(str(model), trust_remote_code=trust) for trust in (True, False))
    monkeypatch.setattr(
        "transformers.dynamic_module_utils.get_class_from_dynamic_module", lambda *_, **__: pytest.fail("code ran")
    )
    for resolve in (find.resolve_base, find.cached, find.config_folder):
        with pytest.raises(UserError, match=rf"{name}: {key}.* code of the repository 'org/code'.* 'modeling.Tiny'"):
            resolve(trusted)
        assert resolve(plain) == model
    with pytest.raises(UserError, match="code of the repository 'org/code'"):
        configs.load_config(model, True)
    with pytest.raises(UserError, match="code of the repository 'org/code'"):
        load.load_tokenizer(model, True)
    with pytest.raises(UserError, match="code of the repository 'org/code'"):
        load.load(model, PRECISIONS["fp32"], False, True, device="cpu", trust_remote_code=True)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(model))
    if name == "config.json":
        with pytest.raises(UserError, match=r"base 'org/model': config\.json: .*code of the repository 'org/code'"):
            find.config_folder(Base("org/model", trust_remote_code=True))


def test_a_distributed_checkpoint_that_would_be_loaded_instead_is_refused(model):
    (model / "shard-00001-model-00001-of-00001.safetensors").write_bytes(bytes(10))
    assert "which transformers loads in place of model.safetensors" in refused(model)


def test_a_plan_sees_a_hub_id_in_the_cache_and_asks_no_network(model, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "huggingface_hub.snapshot_download", lambda name, **more: asked.append(more["local_files_only"]) or str(model)
    )
    assert find.cached(Base("org/model")) == model
    (model / "config.json").write_text('{"quantization_config": {"quant_method": "gptq"}}')
    with pytest.raises(UserError, match="base 'org/model': its weights are stored quantized"):
        find.cached(Base("org/model"))
    (model / "model.safetensors").unlink()
    assert find.cached(Base("org/model")) is None
    assert asked == [True] * 3


def test_a_folder_that_may_not_be_read_is_refused(model, monkeypatch):
    def deny(_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.iterdir", deny)
    assert "the folder cannot be read: Permission denied" in refused(model)
    shutil.rmtree(model, ignore_errors=True)


@pytest.mark.parametrize("name", ["qwen.tiktoken", "source.spm", "vocab.bpe", "dict.vocab", "merges.txt"])
def test_every_file_of_a_tokenizer_is_in_the_hash_and_fetched(name, model, monkeypatch):
    before = find.base_fingerprint(model)
    (model / name).write_text("a")
    assert find.base_fingerprint(model) != before
    asked = []
    monkeypatch.setattr(
        "huggingface_hub.snapshot_download", lambda _, **more: asked.append(more["allow_patterns"]) or str(model)
    )
    for wanted in ({}, {"wanted": here._DESCRIPTION}):
        find._from_hub(Base("org/model"), **wanted)
    assert all(any(fnmatch.fnmatch(name, pattern) for pattern in patterns) for patterns in asked)
