"""How tiny base models of many families are built, each fact compared with the family's config or paper."""

import json
import shutil

import pytest

from peftbench.errors import Unsupported, UserError
from peftbench.models import builtin
from peftbench.models.anatomy import record
from tests.support import families, tiny_base
from tests.support.sample import sample

ROTARY = {"positions.kind": "rotary", "normalization.kind": "RMSNorm", "normalization.placement": "pre"}
LLAMA = {**ROTARY, "feed_forward.activation": "silu", "feed_forward.gated": True, "parallel": False, "experts": None}
GPT = {"feed_forward.gated": False, "normalization.kind": "LayerNorm", "normalization.placement": "pre"}
KNOWN = {
    "llama": {**LLAMA, "attention.kind": "GQA", "attention.key_value_heads": 2, "positions.rotary.0.theta": 1e4},
    "mistral": {**LLAMA, "attention.sliding_window": 16, "attention.sliding_layers": 2},
    "qwen2": {**LLAMA, "attention.kind": "GQA", "attention.sliding_layers": 0, "tied": False},
    "qwen3": {**LLAMA, "normalization.queries_and_keys": True},
    "gemma": {**LLAMA, "feed_forward.activation": "gelu_pytorch_tanh", "tied": True},
    "gemma2": {**LLAMA, "feed_forward.activation": "gelu_pytorch_tanh", "normalization.placement": "pre and post"}
    | {"attention.sliding_window": 16, "attention.sliding_layers": 1},
    "gemma3_text": {"positions.rotary.0.layers": "sliding_attention", "positions.rotary.0.theta": 1e4}
    | {"positions.rotary.1.layers": "full_attention", "positions.rotary.1.theta": 1e6},
    "gpt2": {**GPT, "positions.kind": "learned", "attention.kind": "MHA", "parallel": False, "tied": True}
    | {"feed_forward.activation": "gelu_new", "feed_forward.width": 256},
    "gpt_neo": {**GPT, "positions.kind": "learned", "attention.sliding_window": 16, "attention.sliding_layers": 1},
    "gpt_neox": {**GPT, "positions.rotary.0.share": 0.25, "parallel": True, "attention.kind": "MHA"},
    "gptj": {**GPT, "positions.kind": "rotary", "positions.rotary.0.share": 0.5, "parallel": True},
    "gpt_bigcode": {**GPT, "positions.kind": "learned", "attention.kind": "MQA", "attention.key_value_heads": 1},
    "bloom": {**GPT, "positions.kind": "ALiBi", "context": None, "attention.kind": "MHA", "parallel": False},
    "mpt": {**GPT, "positions.kind": "ALiBi", "feed_forward.activation": "gelu", "feed_forward.width": 256},
    "falcon": {**GPT, "positions.kind": "rotary", "parallel": True, "attention.kind": "MQA"},
    "opt": {**GPT, "positions.kind": "learned", "feed_forward.activation": "relu", "parallel": False, "tied": True},
    "phi": {**GPT, "positions.rotary.0.share": 0.5, "parallel": True},
    "cohere": {"positions.kind": "rotary", "normalization.kind": "LayerNorm", "parallel": True, "tied": True},
    "mixtral": {**ROTARY, "experts.number": 4, "experts.active": 2, "experts.layers": 2, "experts.width": 128},
    "qwen2_moe": {**ROTARY, "experts.number": 4, "experts.active": 2, "feed_forward.gated": True},
    "deepseek_v3": {**ROTARY, "attention.kind": "MLA", "attention.latent": 16, "attention.key_value_heads": None}
    | {"attention.head_dim": 24, "positions.rotary.0.share": 8 / 24, "experts.shared": 1, "experts.layers": 1},
    "olmo2": {**LLAMA, "normalization.placement": "post", "normalization.queries_and_keys": True},
    "ministral3": {**LLAMA, "positions.rotary.0.scaling": "yarn", "positions.rotary.0.factor": 16},
    "jamba": {"positions.kind": "none", "attention.layers": 1, "experts.layers": 1},
    "mamba": {"positions.kind": "none", "attention": None, "parallel": None, "context": None},
    "xglm": {**GPT, "positions.kind": "sinusoidal"},
    "persimmon": {**GPT, "attention.kind": "MHA", "normalization.queries_and_keys": True},
    "dbrx": {"attention.kind": "MQA", "experts.number": 4, "experts.active": 2, "feed_forward.gated": None},
    "recurrent_gemma": {"attention.layers": 1, "attention.sliding_layers": 1, "normalization.kind": "RMSNorm"},
}


def read(folder):
    from peftbench.models.anatomy import reading

    return reading.read(folder)


def built(family):
    import torch
    from transformers import AutoModelForCausalLM

    from peftbench.models.anatomy import reading

    config = families.config(family)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    return reading.of(config, model, None), model


def at(found, path):
    for name in path.split("."):
        found = found[int(name)] if name.isdecimal() else getattr(found, name)
    return found


@pytest.mark.parametrize("family", sample(KNOWN, 2))
def test_the_anatomy_of_a_family_is_what_its_config_says(family):
    found, model = built(family)
    assert {path: at(found, path) for path in KNOWN[family]} == KNOWN[family]
    assert found.family == family
    assert (found.layers, found.width, found.embedded) == (families.config(family).num_hidden_layers, 64, 1024)
    assert tuple(found.parameters) == record.PARTS
    assert sum(found.parameters.values()) == sum(p.numel() for p in model.parameters())
    assert found.parameters["head"] == 0 or not found.tied
    if found.attention is not None and found.attention.kind not in (None, "MLA"):
        assert found.attention.heads * found.attention.head_dim == 64


@pytest.mark.parametrize(
    ("shape", "parts"),
    [
        ("llama-7b", {"embeddings": 131_072_000, "attention": 32 * 4 * 4096**2, "MLP": 32 * 3 * 4096 * 11008}),
        ("falcon-7b", {"head": 0, "attention": 32 * (4544 * (71 + 2) * 64 + 4544**2), "other": 0}),
        ("mixtral-8x7b", {"MLP": 32 * 8 * (3 * 4096 * 14336 + 4096), "norms": 65 * 4096}),
        ("gpt2-medium", {"embeddings": (50257 + 1024) * 1024, "norms": 49 * 2 * 1024, "head": 0}),
    ],
)
def test_the_parameters_of_a_known_shape_are_in_their_parts(shape, parts):
    found = read(builtin.shape(shape))
    assert {name: found.parameters[name] for name in parts} == parts
    assert found.tokenizer is None


def test_the_built_in_base_has_a_tokenizer():
    found = read(builtin.folder("nano"))
    assert found.tokenizer == record.Vocabulary("byte-level BPE", 1024)
    assert (found.context, found.attention.kind, found.tied) == (256, "MHA", True)


def test_a_tokenizer_that_cannot_be_read_is_not_known(tmp_path):
    folder = tiny_base.make(tmp_path / "tiny")
    (folder / "tokenizer.json").write_text("{")
    assert read(folder).tokenizer == record.Vocabulary(None, None)


def test_weights_are_not_needed(tmp_path):
    folder = tiny_base.make(tmp_path / "tiny", num_key_value_heads=1)
    (folder / "model.safetensors").unlink()
    assert read(folder).attention.kind == "MQA"


@pytest.mark.parametrize(
    ("config", "error", "message"),
    [
        ({"model_type": "t5"}, Unsupported, "encoder-decoder"),
        ({"model_type": "bert"}, Unsupported, "reads in both directions"),
        ({"model_type": "nonesuch"}, UserError, "config.json: .*nonesuch"),
        ({"model_type": "llama", "num_attention_heads": 0}, UserError, "cannot build its model|config.json"),
    ],
)
def test_what_is_no_causal_model_is_refused_with_its_reason(tmp_path, config, error, message):
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(error, match=message):
        read(tmp_path)


def test_norms_are_told_apart_by_what_they_compute():
    import torch
    from torch import nn

    from peftbench.models.anatomy import norms

    class LayerNormByName(nn.Module):
        """An RMSNorm with a misleading name."""

        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(8))

        def forward(self, x):
            return self.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)

    assert norms.kind(LayerNormByName()) == "RMSNorm"
    assert norms.kind(nn.LayerNorm(8)) == "LayerNorm"
    assert norms.kind(nn.LayerNorm(8, elementwise_affine=False)) == "LayerNorm"
    assert norms.kind(nn.Identity()) is norms.kind(nn.Linear(8, 8)) is None


def test_a_pass_that_fails_leaves_the_order_unknown(monkeypatch):
    from peftbench.models.anatomy import order

    def broken(*_):
        raise RuntimeError("no fake tensors")

    monkeypatch.setattr(order, "_traced", broken)
    found, _ = built("llama")
    assert (found.parallel, found.normalization.placement) == (None, None)
    assert found.normalization.kind == "RMSNorm"


@pytest.mark.spawns
def test_the_child_process_gives_the_same_or_the_reason(tmp_path, capsys):
    from dataclasses import asdict

    from peftbench.models.anatomy import child

    folder = builtin.folder("nano")
    assert child.start(folder).result() == json.loads(json.dumps(asdict(read(folder))))
    shutil.copy(folder / "config.json", tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "t5"}')
    child.main(str(tmp_path))  # here: a second interpreter would tell no more
    assert "encoder-decoder" in json.loads(capsys.readouterr().out)
