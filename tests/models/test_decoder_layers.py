"""The blocks of a base are found in every kind of configuration, by all methods that ask for them."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

from peftbench.errors import Unsupported
from peftbench.methods import METHODS
from peftbench.models.layers import blocks
from peftbench.records.resolve import resolve

TEXT = {"vocab_size": 48, "hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2, "pad_token_id": 0}
TEXT |= {"num_key_value_heads": 1, "head_dim": 8, "num_hidden_layers": 3, "max_position_embeddings": 32}
VISION = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2}
OPTIONS = {
    "full": {"layers": 2, "modules": None},
    "adapter": {"kind": "pfeiffer", "activation": None, "scale": None},
    "llama_adapter": {"layers": 2, "gate": "per_layer"},
}


def two_towers():
    """A model that sees and reads, with as many blocks for one as for the other."""
    config = AutoConfig.for_model(
        "gemma3", text_config=TEXT, vision_config=VISION | {"image_size": 28, "patch_size": 14}, mm_tokens_per_image=4
    )
    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(config)


@pytest.mark.parametrize("name", OPTIONS)
def test_of_two_towers_the_one_for_text_is_tuned(name):
    model = two_towers()
    assert model.config.vision_config.num_hidden_layers == model.config.text_config.num_hidden_layers
    tuned = resolve(METHODS[name].attach)(model, 4, OPTIONS[name])
    trained = [n for n, p in tuned.named_parameters() if p.requires_grad]
    assert trained
    assert [n for n in trained if "language_model.layers." not in n] == []


def test_experts_are_not_taken_for_blocks():
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **TEXT))
    model.model.aside = torch.nn.ModuleList(torch.nn.Linear(2, 2) for _ in range(3))
    model.model._modules = dict(sorted(model.model._modules.items()))  # before the blocks
    assert next(m for m in model.modules() if isinstance(m, torch.nn.ModuleList)) is model.model.aside
    assert blocks(model, "full") == list(model.model.layers)


def test_a_base_without_blocks_is_refused_in_the_methods_name():
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **TEXT))
    model.model.layers = torch.nn.Identity()
    for name, options in OPTIONS.items():
        with pytest.raises(Unsupported, match=f"^{name}: LlamaForCausalLM has no list of its 3 blocks"):
            resolve(METHODS[name].attach)(model, 4, options)
