"""Weights that are not the config's are refused from headers alone; what transformers loads wholly is accepted."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from peftbench.errors import UserError
from peftbench.models import dry_load, load
from peftbench.models.precision import PRECISIONS
from tests.support import architectures, tiny_base, weights

LAYER = "model.layers.0.self_attn"


@pytest.fixture(scope="module")
def untied(tmp_path_factory):
    return tiny_base.make(tmp_path_factory.mktemp("untied") / "base", tie_word_embeddings=False)


def begun(prefix):
    return lambda tensors: {prefix + name: value for name, value in tensors.items()}


def renamed(before, after):
    return lambda tensors: {name.replace(before, after): value for name, value in tensors.items()}


def without(part):
    return lambda tensors: {name: value for name, value in tensors.items() if part not in name}


def with_tensor(name, value):
    return lambda tensors: tensors | {name: value}


def doubled(tensors):
    return tensors | begun("base_model.model.")({name: value + 1 for name, value in tensors.items()})


WRONG = {
    "peft's wrapper": (
        begun("base_model.model."),
        {},
        ["30 tensors are not in", "'base_model.model.'", "of peft"],
    ),
    "data parallel": (begun("module."), {}, ["contain 'module.'"]),
    "compiled": (begun("_orig_mod."), {}, ["contain '_orig_mod.'", "torch.compile"]),
    "wrapped inside": (renamed("self_attn", "_checkpoint_wrapped_module.self_attn"), {}, ["12 tensors are not in"]),
    "peft's layers": (renamed("q_proj.", "q_proj.base_layer."), {}, ["3 tensors are not in", "'base_layer.'"]),
    "another beginning": (renamed("model.", "foo.bar."), {}, ["begin with 'foo.bar.layers.' where the model's begin"]),
    "one gone": (without("layers.1.mlp.up_proj"), {}, ["1 tensor is not in", "layers.1.mlp.up_proj", "not complete"]),
    "no last norm": (without("model.norm"), {}, ["would be random: model.norm.weight", "not complete"]),
    "fewer layers": (without("layers.2."), {}, ["9 tensors are not in", "asks for 3 layers", "the files have 2"]),
    "more layers": (None, {"num_hidden_layers": 2}, ["9 tensors are in the files but not", "2 layers", "have 3"]),
    "head not tied": (None, {"tie_word_embeddings": False}, ["lm_head.weight", "tie_word_embeddings: true"]),
    "more rows": (None, {"vocab_size": 300}, ["320 x 64 in the files, 300 x 64", "resized to 320 rows", "vocab_size"]),
    "fewer rows": (None, {"vocab_size": 330}, ["is 320 x 64 in the files, 330 x 64 by the config"]),
    "width": (None, {"intermediate_size": 96}, ["9 tensors are of another shape", "sizes in config.json"]),
    "bias": (
        with_tensor(f"{LAYER}.q_proj.bias", torch.ones(64)),
        {},
        ["1 tensor is in the files but not"],
    ),
    "a norm more": (with_tensor(f"{LAYER}.q_norm.weight", torch.ones(16)), {}, [f"not in the model: {LAYER}.q_norm"]),
    "position table": (with_tensor("model.embed_positions.weight", torch.ones(9, 64)), {}, ["model.embed_positions"]),
    "adapter inside": (with_tensor(f"{LAYER}.q_proj.lora_A.default.weight", torch.ones(4, 64)), {}, ["not merged"]),
    "twice": (
        lambda t: t | begun("base_model.model.")({n: v + 1 for n, v in t.items()}),
        {},
        ["29 tensors are in the files but not", "base_model"],
    ),
    "integers": (lambda t: {n: (v * 9).to(torch.int8) for n, v in t.items()}, {}, ["as integers", "quantized"]),
    "8-bit floats": (
        lambda t: {n: v.to(torch.float8_e4m3fn) if v.ndim > 1 else v for n, v in t.items()},
        {},
        ["22 weights are stored in at most 8 bits (F8_E4M3): ", "quantized", "without its scales"],
    ),
    "8-bit floats of one layer": (
        lambda t: {n: v.to(torch.float8_e5m2) if n == f"{LAYER}.q_proj.weight" else v for n, v in t.items()},
        {},
        [f"1 weight is stored in at most 8 bits (F8_E5M2): {LAYER}.q_proj.weight"],
    ),
    "packed": (renamed("proj.weight", "proj.qweight"), {}, ["quantized, though config.json has no quantization_conf"]),
    "Meta's names": (renamed("model.embed_tokens", "tok_embeddings"), {}, ["Meta's own format"]),
    "another family": (None, {"model_type": "qwen2"}, ["q_proj.bias", "model_type 'qwen2'"]),
    "nothing": (lambda _: {"x": torch.ones(1)}, {}, ["tensors are not in the files", "another architecture"]),
}


@pytest.mark.parametrize("case", WRONG)
def test_weights_that_are_not_the_configs_are_refused_with_names_and_cause(case, tiny, tmp_path):
    change, config, parts = WRONG[case]
    folder = weights.copy(tiny, tmp_path / "base", change, **config)
    with pytest.raises(UserError) as refused:
        dry_load.check(folder, False)
    for part in parts:
        assert part in str(refused.value), str(refused.value)
    with pytest.raises(UserError) as again:
        load.load(folder, PRECISIONS["fp32"], False, True, device="cpu", trust_remote_code=False)
    assert str(refused.value) in str(again.value)


@pytest.mark.parametrize("precision", ["nf4", "int8"])
def test_a_quantized_load_refuses_them_too(precision, tiny, untied, tmp_path):
    where = {"device": "cpu", "trust_remote_code": False}
    folder = weights.copy(untied, tmp_path / "base", without("lm_head"))
    with pytest.raises(UserError, match=r"1 tensor is not in the files and would be random: lm_head\.weight"):
        load.load(folder, PRECISIONS[precision], False, True, **where)
    narrow = weights.copy(tiny, tmp_path / "narrow", intermediate_size=96)
    with pytest.raises(UserError, match="9 tensors are of another shape"):
        load.load(narrow, PRECISIONS[precision], False, True, **where)


def test_files_that_contradict_each_other_are_refused(tmp_path):
    folder = tmp_path / "base"
    architectures.build("llama").save_pretrained(folder, max_shard_size="100KB")
    index = folder / "model.safetensors.index.json"
    places = json.loads(index.read_text())["weight_map"]
    where, other = min(places.values()), max(places.values())
    name = next(n for n, file in places.items() if file == where)
    save_file(load_file(folder / other) | {name: torch.zeros(2)}, folder / other, {"format": "pt"})
    with pytest.raises(UserError, match=f"tensor {name} is in {where} and in {other}"):
        dry_load.check(folder, False)
    save_file({n: t for n, t in load_file(folder / other).items() if n != name}, folder / other, {"format": "pt"})
    gone = next(n for n, file in places.items() if file == other)
    save_file({n: t for n, t in load_file(folder / other).items() if n != gone}, folder / other, {"format": "pt"})
    with pytest.raises(UserError, match=f"{gone} is in {other}, which does not have it"):
        dry_load.check(folder, False)
    (folder / other).write_bytes((folder / other).read_bytes()[:-100])
    with pytest.raises(UserError, match=f"{other} cannot be read: .*fetch it again"):
        dry_load.check(folder, False)


def decoder(model, folder):
    model.base_model.save_pretrained(folder)


def as_on_the_hub(prefix, names):
    """Save a model as old versions did: without the decoder's name, and with buffers that are computed today."""

    def save(model, folder):
        (model.base_model if not prefix else model).save_pretrained(folder)
        tensors = load_file(folder / "model.safetensors")
        for layer in range(3):
            tensors |= {f"{prefix}{name}".format(layer): value.clone() for name, value in names.items()}
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})

    return save


def in_a_subfolder(model, folder):
    model.save_pretrained(folder, max_shard_size="100KB")
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    (folder / "shards").mkdir()
    for name in set(index["weight_map"].values()):
        (folder / name).rename(folder / "shards" / name)
    index["weight_map"] = {tensor: f"shards/{name}" for tensor, name in index["weight_map"].items()}
    path.write_text(json.dumps(index))


def with_other_heads(model, folder):
    model.save_pretrained(folder)
    more = {"v_head.summary.weight": torch.ones(1, 64), "score.weight": torch.ones(2, 64)}
    save_file(load_file(folder / "model.safetensors") | more, folder / "model.safetensors", {"format": "pt"})


MASK = {"h.{}.attn.bias": torch.ones(1, 1, 64, 64), "h.{}.attn.masked_bias": torch.tensor(-1e4)}
BUFFERS = {"bias": torch.ones(1, 1, 64, 64, dtype=torch.bool), "rotary_emb.inv_freq": torch.ones(8)}
RIGHT = {
    "untied": ("llama", None, {"tie_word_embeddings": False}),
    "tied": ("llama", None, {"tie_word_embeddings": True}),
    "tied decoder": ("llama", decoder, {"tie_word_embeddings": True}),
    "gpt2 without prefix": ("gpt2", decoder, {}),
    "gpt2 as on the hub": ("gpt2", as_on_the_hub("", MASK), {}),
    "gpt_neox as on the hub": (
        "gpt_neox",
        as_on_the_hub("gpt_neox.layers.{}.attention.", BUFFERS),
        {},
    ),
    "shards": ("llama", lambda model, folder: model.save_pretrained(folder, max_shard_size="100KB"), {}),
    "shards in a subfolder": ("llama", in_a_subfolder, {}),
    "other heads": ("llama", with_other_heads, {}),
    "experts of their own": ("mixtral", None, {}),
}


@pytest.mark.parametrize("case", RIGHT)
def test_what_transformers_loads_wholly_is_accepted_with_equal_logits(case, tmp_path):
    from transformers import AutoModelForCausalLM

    family, save, changes = RIGHT[case]
    model = architectures.build(family, **changes)
    (save or (lambda found, folder: found.save_pretrained(folder)))(model, tmp_path)
    tiny_base.tokenizer().save_pretrained(tmp_path)
    assert dry_load.check(tmp_path, False) == dry_load.Sizes(320)
    ours = load.load(tmp_path, PRECISIONS["fp32"], False, True, device="cpu", trust_remote_code=False).model
    ids = torch.arange(2, 14)[None]
    with torch.no_grad():
        found = ours(input_ids=ids).logits
        assert torch.equal(found, AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)(ids).logits)
        assert torch.allclose(found, model(ids).logits, atol=1e-5)


@pytest.mark.parametrize("family", architectures.CONFIGS)
def test_every_family_is_accepted_as_saved(family, tmp_path):
    assert dry_load.check(architectures.make(tmp_path, family), False) == dry_load.Sizes(320)


def test_a_vision_language_model_is_accepted_with_its_tower(tmp_path):
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    heads = {"num_attention_heads": 4, "num_hidden_layers": 2}
    text = {"vocab_size": 320, "hidden_size": 64, "intermediate_size": 128, "head_dim": 16, "num_key_value_heads": 2}
    tower = {"hidden_size": 32, "intermediate_size": 64, "image_size": 28, "patch_size": 14}
    config = Gemma3Config(
        text_config=text | heads, vision_config=tower | heads, mm_tokens_per_image=4, image_token_index=300
    )
    Gemma3ForConditionalGeneration(config).save_pretrained(tmp_path)
    assert dry_load.check(tmp_path, False) == dry_load.Sizes(320)


def test_layers_that_predict_further_tokens_are_left_out_silently(tiny, tmp_path):
    extra = {"num_hidden_layers": 2, "num_nextn_predict_layers": 1}
    assert dry_load.check(weights.copy(tiny, tmp_path / "base", **extra), False) == dry_load.Sizes(320)


def test_a_model_that_cannot_be_built_without_weights_is_left_to_the_load(tiny, monkeypatch):
    from transformers import AutoModelForCausalLM

    def refuse(*_, **__):
        raise RuntimeError("Tensor.item() cannot be called on meta tensors")

    monkeypatch.setattr(AutoModelForCausalLM, "from_config", refuse)
    assert dry_load.check(tiny, False) is None


# tied weights


def head(change):
    """Store a head beside the embeddings that it is tied to."""
    return lambda tensors: tensors | {"lm_head.weight": change(tensors["model.embed_tokens.weight"].clone())}


def test_a_head_of_its_own_in_a_tied_config_is_refused_before_and_while_loading(tiny, tmp_path, monkeypatch):
    folder = weights.copy(tiny, tmp_path / "base", head(lambda table: table + 1))
    told = r"ties lm_head.weight to model.embed_tokens.weight .* with different values; set tie_word_embeddings: false"
    with pytest.raises(UserError, match=told):
        dry_load.check(folder, False)
    monkeypatch.setattr(dry_load.tied, "check", lambda *_: None)
    with pytest.raises(UserError, match=told):
        load.load(folder, PRECISIONS["fp32"], False, True, device="cpu", trust_remote_code=False)
    weights.edit(folder / "config.json", tie_word_embeddings=False)
    assert dry_load.check(folder, False) == dry_load.Sizes(320)


def test_a_stored_copy_of_the_embeddings_is_their_head(tiny, tmp_path):
    folder = weights.copy(tiny, tmp_path / "base", head(lambda table: table))
    assert dry_load.check(folder, False) == dry_load.Sizes(320)
    found = load.load(folder, PRECISIONS["fp32"], False, True, device="cpu", trust_remote_code=False).model
    assert found.get_output_embeddings().weight is found.get_input_embeddings().weight


def test_a_head_that_differs_in_a_single_row_is_refused_when_it_is_loaded(tiny, tmp_path):
    def change(table):
        table[3] += 1
        return table

    folder = weights.copy(tiny, tmp_path / "base", head(change))
    with pytest.raises(UserError, match="with different values"):
        load.load(folder, PRECISIONS["fp32"], False, True, device="cpu", trust_remote_code=False)


@pytest.mark.parametrize("named", [["LlamaForSequenceClassification"], ["LlamaForCausalLM"], None])
def test_a_classifier_is_not_advised_to_tie_a_head_that_it_never_had(named, untied, tmp_path):
    def classifier(tensors):
        kept = {name: value for name, value in tensors.items() if name != "lm_head.weight"}
        return kept | {"score.weight": torch.ones(2, 64)}

    folder = weights.copy(untied, tmp_path / "base", classifier, architectures=named)
    with pytest.raises(UserError, match="saved as a classifier or reward model") as raised:
        dry_load.check(folder, False)
    assert "tie_word_embeddings" not in str(raised.value)
