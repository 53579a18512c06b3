"""What a config says about methods that a family cannot take; ``plan`` says it without loading anything."""

from __future__ import annotations

import json

import pytest
import transformers

from peftbench.errors import Unsupported
from peftbench.methods import base_facts
from peftbench.planner import forecast
from peftbench.runner import prepare
from tests.support import trials

STATE, LATENT = "keep a state", "holds latent vectors instead of keys and values per head"
REFUSED = [
    ("mamba2", {}, "prefix_tuning", STATE),
    ("recurrent_gemma", {}, "prefix_tuning", STATE),
    ("qwen3_next", {}, "prefix_tuning", STATE),
    ("a_family_of_tomorrow", {"layer_types": ["full_attention", "mamba"]}, "prefix_tuning", r"keep a state \(mamba\)"),
    ("deepseek_v3", {"kv_lora_rank": 512}, "prefix_tuning", LATENT),
    ("deepseek_v32", {"kv_lora_rank": 512, "layer_types": ["indexed_attention"]}, "prefix_tuning", LATENT),
    ("gemma3n", {"text_config": {"num_kv_shared_layers": 15}}, "prefix_tuning", "keys and values of others"),
    ("gemma3n", {}, "prompt_tuning", "an input of its own computed from token ids"),
    ("gemma4_text", {"hidden_size_per_layer_input": 256}, "prompt_tuning", "an input of its own"),
    ("mamba", {}, "adapter", "adapter: the layers of mamba have no attention"),
    ("xlstm", {}, "llama_adapter", "the layers of xlstm have no attention"),
    ("rwkv", {"rescale_every": 6}, "qlora", r"^qlora: rwkv scales its weights in place .* quantized weights do not"),
    ("rwkv", {}, "qlora", "scales its weights in place"),
]
TAKEN = [
    ("rwkv", {}, "lora"),
    ("rwkv", {"rescale_every": 0}, "qlora"),
    ("llama", {}, "prefix_tuning"),
    ("gemma3", {"layer_types": ["sliding_attention", "full_attention"]}, "prefix_tuning"),
    ("deepseek_v3", {"kv_lora_rank": 512}, "prompt_tuning"),
    ("mamba2", {}, "prompt_tuning"),
    ("mamba2", {}, "lora"),
    ("gemma3n_text", {"hidden_size_per_layer_input": 0, "num_kv_shared_layers": 0}, "prompt_tuning"),
    ("gemma3n_text", {"hidden_size_per_layer_input": 0, "num_kv_shared_layers": 0}, "prefix_tuning"),
]


def made(base, folder, method):
    """A trial in the method's first precision."""
    return trials.trial(base, folder, method, "nf4" if method == "qlora" else "fp32")


@pytest.mark.parametrize(("family", "settings", "method", "told"), REFUSED)
def test_a_method_that_a_family_cannot_take_is_refused_from_the_config(family, settings, method, told, tiny, tmp_path):
    with pytest.raises(Unsupported, match=told):
        base_facts.check(made(tiny, tmp_path, method), {"model_type": family, **settings})


@pytest.mark.parametrize(("family", "settings", "method"), TAKEN)
def test_others_are_not(family, settings, method, tiny, tmp_path):
    base_facts.check(made(tiny, tmp_path, method), {"model_type": family, **settings})


@pytest.mark.parametrize("kind", ["PREFIX_TUNING", "P_TUNING"])
def test_the_tuners_of_peft_that_do_the_same_are_refused_too(kind, tiny, tmp_path):
    made = trials.trial(tiny, tmp_path, "peft", rank=4, options={"peft_type": kind})
    with pytest.raises(Unsupported, match=f"^peft {kind}: "):
        base_facts.check(made, transformers.Gemma3nTextConfig())


def test_plan_lists_the_cell_as_unsupported_with_the_reason(tmp_path):
    folder = tmp_path / "base"
    folder.mkdir()
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 320, "num_heads": 8, "head_dim": 16}
    config = {"model_type": "mamba2", "n_groups": 1, **sizes}
    (folder / "config.json").write_text(json.dumps(config))
    made = [trials.trial(folder, tmp_path, name) for name in ("prefix_tuning", "lora")]
    (reason,) = prepare.impossible(made).values()
    assert reason.startswith("prefix_tuning: some layers of mamba2 keep a state")
    (found,) = forecast.forecasts(made[:1], lambda _: folder, forecast.Question())
    assert found.problem.startswith("prefix_tuning: some layers of mamba2 keep a state")
